//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

var numCPU = runtime.NumCPU()

const (
	resamples = 10_000
	// decidingPairs is how many pairs an interval needs at least to mean something.
	decidingPairs = 10
	// noisyShare is the share of the machine that others may have before the figures are called noisy.
	noisyShare = 0.05
)

// sample is what one run yields.
type sample struct {
	name                          string
	requests                      float64
	throughput                    float64 // requests/s
	p99                           float64 // ms
	connections                   float64 // opened to the upstream
	others                        float64 // share of the machine that somebody else had
	proxyCPU, upstreamCPU, wrkCPU time.Duration
}

// cpuPer100k is the proxy's CPU seconds per 100,000 requests.
func (s sample) cpuPer100k() float64 { return s.proxyCPU.Seconds() / s.requests * 1e5 }

// normalised relates the proxy's CPU to that of wrk and the upstream in the same run: a host that slows the machine slows all
// three, so that this varies far less. It misleads where a set-up gives those two more work to do.
func (s sample) normalised() float64 {
	return s.proxyCPU.Seconds() / (s.wrkCPU + s.upstreamCPU).Seconds()
}

type pair struct{ subject, base sample }

// results are the pairs of each comparison, and all runs of each set-up.
type results struct {
	pairs [][]pair
	runs  map[string][]sample
}

func (r *results) add(comparison int, p pair) {
	r.pairs[comparison] = append(r.pairs[comparison], p)
	for _, s := range []sample{p.subject, p.base} {
		r.runs[s.name] = append(r.runs[s.name], s)
	}
}

const (
	metricThroughput = "throughput"
	metricP99        = "p99"
	metricCPU        = "CPU per request"
	metricNormalised = "CPU normalised"
)

// metrics are compared by their ratio.
var metrics = []struct {
	name string
	of   func(sample) float64
}{
	{metricThroughput, func(s sample) float64 { return s.throughput }},
	{metricP99, func(s sample) float64 { return s.p99 }},
	{metricCPU, sample.cpuPer100k},
	{metricNormalised, sample.normalised},
}

// interval is a geometric mean with its 95 % bootstrap interval.
type interval struct{ mean, low, high float64 }

func (i interval) String() string { return fmt.Sprintf("%.3f [%.3f, %.3f]", i.mean, i.low, i.high) }

// ratios returns the mean of ratios. They are averaged as logarithms, so that subject and base may be swapped.
func ratios(values []float64, rng *rand.Rand) interval {
	logs := make([]float64, len(values))
	for i, v := range values {
		logs[i] = math.Log(v)
	}
	means := make([]float64, resamples)
	for i := range means {
		for range logs {
			means[i] += logs[rng.IntN(len(logs))]
		}
		means[i] /= float64(len(logs))
	}
	slices.Sort(means)
	sum := 0.0
	for _, v := range logs {
		sum += v
	}
	at := func(q float64) float64 { return math.Exp(means[int(q*float64(resamples-1)+0.5)]) }
	return interval{mean: math.Exp(sum / float64(len(logs))), low: at(0.025), high: at(0.975)}
}

// verdict says whether the interval lies on one side of the goal.
func (g goal) verdict(i interval, pairs int) string {
	low, high, relation := i.low, i.high, "at most"
	if g.atLeast {
		low, high, relation = -i.high, -i.low, "at least"
		g.limit = -g.limit
	}
	word := "undecided"
	switch {
	case pairs < decidingPairs:
		word = fmt.Sprintf("undecided, fewer than %d pairs", decidingPairs)
	case high <= g.limit:
		word = "met"
	case low > g.limit:
		word = "not met"
	}
	return fmt.Sprintf("goal: %s %s %.2f: %s", g.metric, relation, math.Abs(g.limit), word)
}

// report prints absolute medians for orientation, then the ratios.
func report(w io.Writer, res *results, rng *rand.Rand) {
	reportSetups(w, res)
	caveat := reportOthers(w, res)
	for i, c := range comparisons {
		fmt.Fprintf(w, "\n%s / %s (%s)\n", c.subject, c.base, c.remark)
		intervals := make(map[string]interval)
		for _, m := range metrics {
			values := make([]float64, len(res.pairs[i]))
			for n, p := range res.pairs[i] {
				values[n] = m.of(p.subject) / m.of(p.base)
			}
			intervals[m.name] = ratios(values, rng)
			fmt.Fprintf(w, "  %-16s %s\n", m.name, intervals[m.name])
		}
		for _, g := range c.goals {
			fmt.Fprintf(w, "  %s%s\n", g.verdict(intervals[g.metric], len(res.pairs[i])), caveat)
		}
	}
}

func reportSetups(w io.Writer, res *results) {
	fmt.Fprintf(w, "\nMedians, for orientation (they drift; compare ratios):\n")
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "set-up\trequests/s\tp99 ms\tproxy CPU s/100k\tupstream CPU s/100k\tconnections/100k\truns\t")
	for _, s := range setups {
		runs := res.runs[s.name]
		fmt.Fprintf(table, "%s\t%.0f\t%.1f\t%.2f\t%.2f\t%.0f\t%d\t\n", s.name,
			median(runs, func(s sample) float64 { return s.throughput }),
			median(runs, func(s sample) float64 { return s.p99 }),
			median(runs, sample.cpuPer100k),
			median(runs, func(s sample) float64 { return s.upstreamCPU.Seconds() / s.requests * 1e5 }),
			median(runs, func(s sample) float64 { return s.connections / s.requests * 1e5 }), len(runs))
	}
	_ = table.Flush() // a terminal that cannot be written to is nobody's loss
	for _, s := range setups {
		fmt.Fprintf(w, "  %s: %s\n", s.name, s.title)
	}
}

// reportOthers says how much of the machine was not ours, and returns what to add to each verdict because of it.
func reportOthers(w io.Writer, res *results) (caveat string) {
	others, count := 0.0, 0.0
	for _, runs := range res.runs {
		for _, run := range runs {
			others, count = others+run.others, count+1
		}
	}
	share := others / count
	fmt.Fprintf(w, "Other processes and the host had %.1f %% of the machine during the runs.\n", share*100)
	if share > noisyShare {
		return " (noisy: others were at work on the machine)"
	}
	return ""
}

func median(runs []sample, of func(sample) float64) float64 {
	if len(runs) == 0 {
		return math.NaN()
	}
	values := make([]float64, len(runs))
	for i, s := range runs {
		values[i] = of(s)
	}
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}
