-- Prints what bench needs in one line: requests, microseconds, 99th percentile in microseconds, errors. Nothing here runs
-- during the load.
done = function(summary, latency)
  local e = summary.errors
  print(string.format("figures: %d %d %d %d", summary.requests, summary.duration, latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
