(() => {
  "use strict";
  const root = document.documentElement;
  const kept = "paper-checks-theme";
  const attempt = (action) => { try { return action(); } catch { return null; } }; // storage may be forbidden
  const theme = attempt(() => localStorage.getItem(kept));
  if (theme) root.dataset.theme = theme;
  root.classList.add("js");

  addEventListener("DOMContentLoaded", () => {
    const all = (selector) => [...document.querySelectorAll(selector)];
    const one = (selector) => document.querySelector(selector);
    const search = one("#search");
    const outcomes = all("button[data-show]");
    const sections = all("section[data-claim]");
    const texts = new Map(sections.map((each) => [each.dataset.claim, each.textContent.toLowerCase()]));
    const state = { show: "", find: "" };

    const apply = () => {
      const words = state.find.toLowerCase().split(/\s+/).filter(Boolean);
      const shown = new Set(sections.filter((each) =>
        (!state.show || each.dataset.outcome === state.show) &&
        words.every((word) => each.dataset.claim.includes(word) || texts.get(each.dataset.claim).includes(word))
      ).map((each) => each.dataset.claim));
      all("[data-claim]").forEach((each) => each.classList.toggle("filtered", !shown.has(each.dataset.claim)));
      outcomes.forEach((each) => each.setAttribute("aria-pressed", String(each.dataset.show === state.show)));
      if (search.value.trim() !== state.find) search.value = state.find; // a space that is being typed stays
      one("#count").textContent = `${shown.size} of ${sections.length}`;
    };
    const choose = (change) => {
      Object.assign(state, change);
      const said = new URLSearchParams(Object.entries(state).filter(([, value]) => value));
      history.replaceState(null, "", String(said) ? `#${said}` : location.pathname + location.search);
      apply();
    };
    const reveal = (target) => {
      for (let each = target; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
      target.querySelector("details")?.setAttribute("open", "");
      target.scrollIntoView();
    };
    const follow = () => { // #show=VIOLATED&find=floor, or the name of a claim
      const hash = decodeURIComponent(location.hash.slice(1));
      if (hash.includes("=")) {
        const said = new URLSearchParams(hash);
        Object.assign(state, { show: said.get("show") ?? "", find: said.get("find") ?? "" });
      } else if (hash) {
        const target = document.getElementById(hash);
        if (!target) return;
        if (target.classList.contains("filtered")) Object.assign(state, { show: "", find: "" });
        apply();
        reveal(target);
        return;
      } else Object.assign(state, { show: "", find: "" });
      apply();
    };

    outcomes.forEach((each) => each.addEventListener("click", () => choose({ show: each.dataset.show })));
    search.addEventListener("input", () => choose({ find: search.value.trim() }));
    addEventListener("hashchange", follow);
    addEventListener("keydown", (event) => {
      const typing = event.target.matches("input");
      if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) { event.preventDefault(); search.focus(); }
      if (event.key === "Escape" && typing) { choose({ find: "" }); search.blur(); }
    });

    const fold = one("#fold");
    fold.addEventListener("click", () => {
      const open = fold.getAttribute("aria-expanded") !== "true";
      all("section[data-claim] > details").forEach((each) => { each.open = open; });
      fold.setAttribute("aria-expanded", String(open));
      fold.textContent = open ? "Fold all" : "Unfold all";
    });

    const toggle = one("#theme");
    const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    const say = () => {
      toggle.setAttribute("aria-pressed", String(dark()));
      toggle.textContent = dark() ? "Light" : "Dark";
    };
    toggle.addEventListener("click", () => {
      root.dataset.theme = dark() ? "light" : "dark";
      attempt(() => localStorage.setItem(kept, root.dataset.theme));
      say();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", say);

    all("th button").forEach((button) => button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const falling = head.getAttribute("aria-sort") === "ascending";
      [...head.parentElement.children].forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      const key = (row) => row.cells[head.cellIndex].dataset.key;
      const order = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true });
      body.append(...[...body.rows].sort((a, b) => falling ? order(b, a) : order(a, b)));
    }));

    all("button[data-copy]").forEach((each) => each.addEventListener("click", async () => {
      const done = await attempt(() => navigator.clipboard.writeText(each.previousElementSibling.textContent).then(() => true, () => false));
      each.textContent = done ? "Copied" : "Select it by hand";
      setTimeout(() => { each.textContent = "Copy"; }, 1600);
    }));

    const links = new Map(all("nav.claims a").map((each) => [each.hash.slice(1), each]));
    const watcher = new IntersectionObserver((seen) => seen.forEach(({ target, isIntersecting }) => {
      if (!isIntersecting) return;
      links.forEach((each) => each.removeAttribute("aria-current"));
      links.get(target.id)?.setAttribute("aria-current", "true");
    }), { rootMargin: "-15% 0px -75% 0px" });
    sections.forEach((each) => watcher.observe(each));

    let folded = [];
    addEventListener("beforeprint", () => { folded = all("details:not([open])"); folded.forEach((each) => { each.open = true; }); });
    addEventListener("afterprint", () => { folded.forEach((each) => { each.open = false; }); });
    say();
    follow();
  });
})();
