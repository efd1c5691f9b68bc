// Counts down, and fetches the page anew when the server says that something has changed. The page reads and works without it.
(() => {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const say = (seconds) => {
    const at = units.findIndex(([size]) => seconds >= size);
    if (at < 0) return "now";
    const [size, name] = units[at], [less, small] = units[at + 1] || [0, ""];
    const rest = less && at > 0 ? Math.floor((seconds % size) / less) : 0;
    return `${Math.floor(seconds / size)} ${name}` + (rest ? ` ${rest} ${small}` : "");
  };
  const tick = () => {
    for (const time of document.querySelectorAll("time[data-until]")) {
      const left = Math.round((new Date(time.dateTime) - Date.now()) / 1000);
      time.textContent = left >= 0 ? `in ${say(left)}` : `${say(-left)} ago`;
    }
  };
  const renew = async () => {
    const answer = await fetch(location.href, {headers: {Accept: "text/html"}});
    if (!answer.ok) return;
    const next = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    if (!next) return;
    const focus = document.activeElement && document.activeElement.id;
    document.querySelector("main").replaceWith(next);
    if (focus) document.getElementById(focus)?.focus();
    tick();
  };
  tick();
  setInterval(tick, 1000);
  const news = document.body.dataset.news;
  if (news) new EventSource(news).onmessage = renew;
})();
