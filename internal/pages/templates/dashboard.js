// Counts down, and fetches the page anew when the server says that something has changed. The page reads and works without it.
(() => {
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const say = (seconds) => {
    const at = units.findIndex(([size]) => seconds >= size);
    if (at < 0) return "";
    const [size, name] = units[at], [less, small] = units[at + 1] || [0, ""];
    const rest = less && at > 0 ? Math.floor((seconds % size) / less) : 0;
    return `${Math.floor(seconds / size)} ${name}` + (rest ? ` ${rest} ${small}` : "");
  };
  const tick = () => {
    for (const time of document.querySelectorAll("time[data-until]")) {
      const left = Math.round((new Date(time.dateTime) - Date.now()) / 1000);
      const {before = "", after = "", past} = time.dataset;
      if (left > 0) time.textContent = `${before}in ${say(left)}`;
      else time.textContent = past || (left ? `${after}${say(-left)} ago` : `${before}now`);
    }
  };

  // What is the same stays in the page, so that neither the keyboard nor who presses a button is disturbed; a screen reader is told
  // what was news.
  const merge = (old, next) => {
    if (old.isEqualNode(next)) return;
    const from = [...old.childNodes], to = [...next.childNodes];
    if (old.nodeType !== Node.ELEMENT_NODE || old.nodeName !== next.nodeName || old.id !== next.id || from.length !== to.length) {
      old.replaceWith(next);
      return;
    }
    for (const name of old.getAttributeNames()) if (!next.hasAttribute(name)) old.removeAttribute(name);
    for (const name of next.getAttributeNames()) old.setAttribute(name, next.getAttribute(name));
    from.forEach((node, i) => merge(node, to[i]));
  };
  const page = () => document.querySelector("main");
  const news = () => [...page().querySelectorAll("[data-say] strong, .lead[data-say]")].map((e) => e.textContent).join(", ");
  const renew = async () => {
    const answer = await fetch(location.href, {headers: {Accept: "text/html"}});
    if (!answer.ok) throw new Error(answer.status);
    const next = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
    const focused = document.activeElement, before = news();
    merge(page(), next);
    tick();
    if (focused.id && !focused.isConnected) document.getElementById(focused.id)?.focus({preventScroll: true});
    if (news() !== before) document.getElementById("told").textContent = news();
  };

  // The browser opens a stream that has ended again by itself, but gives up on one that was refused, and on nothing else.
  const follow = () => {
    const from = new URL(document.body.dataset.news, location);
    from.searchParams.set("seen", page().dataset.seen);
    const source = new EventSource(from);
    const later = () => {
      source.close();
      setTimeout(follow, 10000 + 5000 * Math.random());
    };
    source.onmessage = () => renew().catch(later);
    source.onerror = () => source.readyState === EventSource.CLOSED && later();
  };

  tick();
  setInterval(tick, 1000);
  if (document.body.dataset.news) follow();
  // What was done is said once, and not again with every change.
  setTimeout(() => history.replaceState(null, "", location.href.replace(/\?done=\w+$/, "")), 15000);
})();
