// What JavaScript adds: pages that follow what happens, and a chart to hover. Everything works without it.
"use strict";

(() => {
  const say = (text) => { const live = document.getElementById("live"); if (live) live.textContent = text; };

  // -- live pages: on a change of what is shown, fetch this page again and morph the part marked data-live.
  const region = document.querySelector("[data-live]");
  const address = document.body.dataset.events;
  if (region && address && window.EventSource && window.htmx) {
    const mine = region.dataset.incident;
    const QUIET_MS = 400; // a burst of versions is one reload
    let timer = 0, busy = false, again = false;

    // Somebody who types, or who is about to decide, must not have the page changed under the hands.
    const typing = () => [...document.querySelectorAll("[data-live] input[type=text]")].some((field) => field.value);

    const refresh = async () => {
      if (busy) { again = true; return; }
      if (typing()) { say("Something changed; reload when you are done here."); return; }
      busy = true;
      try {
        const selector = `#${region.id}`;
        await window.htmx.ajax("GET", location.pathname + location.search, { target: selector, select: selector, swap: "outerMorph" });
        say(`Updated at ${new Date().toISOString().slice(11, 19)} UTC.`);
      } catch { say("Could not update; this page may be old."); }
      busy = false;
      if (again) { again = false; soon(); }
    };
    const soon = () => { clearTimeout(timer); timer = setTimeout(refresh, QUIET_MS); };
    const heard = (event) => {
      let change = {};
      try { change = JSON.parse(event.data); } catch { /* a message that is no JSON says only that something changed */ }
      if (!mine || !change.incident_id || change.incident_id === mine) soon();
    };
    const stream = new EventSource(address);
    for (const kind of ["incident", "diagnosis", "action", "reload"]) stream.addEventListener(kind, heard);
    stream.onerror = () => say("Live updates are interrupted; trying again.");
    stream.onopen = () => say("Live.");
    addEventListener("pagehide", () => stream.close());
  }

  // -- the query page's chart
  const plot = document.getElementById("plot");
  if (plot && window.uPlot) {
    const series = JSON.parse(plot.dataset.series);
    const times = [...new Set(series.flatMap((one) => one.points.map((point) => point[0])))].sort((a, b) => a - b);
    const columns = series.map((one) => { const at = new Map(one.points); return times.map((time) => at.get(time) ?? null); });
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
    const described = plot.querySelector("svg").getAttribute("aria-label");
    plot.replaceChildren();
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", described);
    const chart = new window.uPlot({
      width: plot.clientWidth, height: 300, tzDate: (seconds) => window.uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      axes: [{ ...axis, values: (_, seconds) => seconds.map((one) => new Date(one * 1000).toISOString().slice(11, 19)) }, { ...axis, size: 70 }], legend: { show: series.length <= 8 },
      series: [{}, ...series.map((one, place) => ({ label: series.length > 1 ? one.name.replace(/^[^{]*(?=\{)/, "") : one.name, stroke: colour(`--s${place % 6}`), width: 1.5 }))],
    }, [times, ...columns], plot);
    addEventListener("resize", () => chart.setSize({ width: plot.clientWidth, height: 300 }));
  }
})();
