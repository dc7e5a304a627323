// The console. Everything that comes from the API is put into the page as text, never as markup.

import { graph } from "/graph.js";

const main = document.getElementById("main");
const dialog = document.getElementById("dialog");
const pulse = document.getElementById("pulse");
const REFRESH = 4000;

let me = null;       // who the API says we are
let shown = "";      // what the page was last drawn from
let chosen = null;   // the step that is looked at
let payloads = false;

// ---- elements

function h(name, props = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (key === "on") for (const [event, handler] of Object.entries(value)) element.addEventListener(event, handler);
    else if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const words = (name) => name.replaceAll("_", " ");
const badge = (name) => h("span", { className: `badge is-${name}` }, words(name));
// What else there is to know of a run at a glance.
const beside = (run) => [
  run.key && ` · key ${run.key}`, run.priority && ` · ${run.priority} priority`,
  ...Object.entries(run.attributes ?? {}).map(([name, value]) => ` · ${name}=${value}`),
].filter(Boolean).join("");
const link = (run, text) => h("a", { href: `#/run/${encodeURIComponent(run)}` }, text);
const button = (text, click, className = "") => h("button", { type: "button", className, on: { click } }, text);

function table(heads, rows) {
  const cell = (kind, [className, content]) => h(kind, { className }, content);
  return h("table", {},
    h("thead", {}, h("tr", {}, heads.map(([className, text]) => cell("th", [className, text])))),
    h("tbody", {}, rows.map((row) => h("tr", { className: row[0] === "" ? "more" : "" },
      row.map((content, i) => cell("td", [heads[i][0], content]))))));
}

function length(milliseconds) {
  const s = Math.max(0, Math.floor(milliseconds / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d`;
}

// An age keeps counting between refreshes.
function age(then) {
  const element = h("time", { dateTime: then, title: new Date(then).toISOString() });
  element.textContent = length(Date.now() - Date.parse(then));
  return element;
}
setInterval(() => {
  for (const element of main.querySelectorAll("time[datetime]")) {
    const then = Date.parse(element.dateTime);
    element.textContent = then > Date.now() ? length(then - Date.now()) : length(Date.now() - then);
  }
}, 1000);

const clock = (time) => new Date(time).toISOString().replace("T", " ").slice(0, 23) + "Z";

// ---- the API

class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail ?? `the server answered ${status}`);
    this.status = status;
  }
}

async function api(path, body) {
  const headers = {};
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  const request = { headers, credentials: "omit", cache: "no-store" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(request, { method: "POST", body: JSON.stringify(body) });
  }
  const response = await fetch(path, request);
  if (!response.ok) throw new Refused(response.status, await response.json().catch(() => ({})));
  return response.json();
}

const query = (filters) => new URLSearchParams(Object.entries(filters).filter(([, value]) => value)).toString();

// ---- pages: each gives what it is drawn from, and how

const pages = {
  attention: {
    async load() {
      // What has ended may not have been counted: that hides nothing of what needs a person.
      const [blocked, counts, definitions, workers] = await Promise.all([
        api("/api/blocked"), api("/api/counts").catch(() => null), api("/api/definitions"), api("/api/workers")]);
      return { blocked, counts, definitions, workers };
    },
    draw({ blocked, counts, definitions, workers }) {
      const live = (state) => definitions.reduce((sum, d) => sum + d[state], 0);
      const ended = (state) => counts?.filter((c) => stateName(c.state) === state).reduce((sum, c) => sum + c.runs, 0);
      const tile = (name, value, href) =>
        h("a", { className: "tile", href }, h("b", { className: `is-${name}` }, value?.toLocaleString("en") ?? "–"), words(name));
      const tiles = h("div", { className: "tiles" },
        ["blocked", "running", "queued", "waiting"].map((state) => tile(state, live(state), `#/sagas?state=${state}`)),
        ["completed", "compensated", "partially_compensated"].map((state) => tile(state, ended(state), `#/sagas?state=${state}`)),
        tile("workers", workers.length, "#/workers"));
      const overdue = definitions.filter((d) => d.overdue);
      const alarms = overdue.map((d) => h("div", { className: "card alarm" },
        h("strong", {}, `${d.overdue.runs} of ${d.name} version ${d.version} are due and nobody drives them, for `, age(d.overdue.since)),
        h("div", { className: "soft" }, d.overdue.why)));
      if (workers.length === 0) {
        alarms.unshift(h("div", { className: "card alarm" }, h("strong", {}, "No worker is alive: nothing is driven until one starts.")));
      }
      const groups = blocked.groups.map((group) => drawGroup(group, blocked.runs.filter((run) => run.group === group.id)));
      const well = groups.length + alarms.length === 0
        ? h("div", { className: "empty" }, h("strong", {}, "Nothing needs a person."), "Sagas that need one appear here, the longest blocked first.")
        : null;
      return [tiles, alarms, groups, well,
        !blocked.complete && h("p", { className: "soft" }, "There are more blocked sagas than are shown here.")];
    },
  },

  sagas: {
    async load({ filters }) {
      const [page, definitions] = await Promise.all([api(`/api/runs?${query({ limit: 50, ...filters })}`), api("/api/definitions")]);
      return { page, names: [...new Set(definitions.map((d) => d.name))], filters };
    },
    draw({ page, names, filters }) {
      const go = (change) => { location.hash = `#/sagas?${query({ ...filters, before: "", ...change })}`; };
      const choice = (name, label, values) => h("select", { ariaLabel: label, on: { change: (e) => go({ [name]: e.target.value }) } },
        h("option", { value: "" }, label),
        values.map((value) => h("option", { value, selected: filters[name] === value }, words(value))));
      const states = ["running", "queued", "waiting", "blocked", "completed", "compensated", "partially_compensated"];
      const bar = h("div", { className: "row" },
        choice("state", "every state", states), choice("definition", "every definition", names),
        h("input", { placeholder: "id contains", ariaLabel: "id contains", value: filters.id ?? "", on: { change: (e) => go({ id: e.target.value }) } }),
        h("input", { placeholder: "attribute=value", ariaLabel: "attribute", value: filters.attribute ?? "", on: { change: (e) => go({ attribute: e.target.value }) } }),
        h("select", { ariaLabel: "age", on: { change: (e) => go({ older_than_seconds: e.target.value }) } },
          [["", "any age"], ["60", "for over a minute"], ["3600", "for over an hour"], ["86400", "for over a day"]].map(
            ([value, text]) => h("option", { value, selected: (filters.older_than_seconds ?? "") === value }, text))));
      const rows = page.runs.map((run) => [
        badge(stateName(run.state)), h("span", {}, link(run.run, `${run.definition}/${run.saga}`), h("span", { className: "soft" }, beside(run))), run.version, age(run.since), clock(run.started_at).slice(0, 19) + "Z",
      ]);
      return [bar, h("p"),
        rows.length ? table([["tight", "State"], ["", "Saga"], ["number", "Version"], ["tight", "For"], ["tight", "Started"]], rows)
          : h("div", { className: "empty" }, "No such sagas."),
        page.next && h("p", { className: "row" }, h("span", { className: "right" }), button("Older", () => go({ before: page.next })))];
    },
  },

  run: {
    async load({ run }) {
      const [view, timeline] = await Promise.all([
        api(`/api/runs/${encodeURIComponent(run)}${payloads ? "?payloads=true" : ""}`),
        api(`/api/runs/${encodeURIComponent(run)}/timeline`)]);
      return { view, timeline };
    },
    draw({ view, timeline }) {
      const { summary } = view;
      const state = stateName(summary.state);
      const since = view.blocked?.since ?? summary.since;
      const end = view.end && Object.values(view.end)[0];
      const because = view.cause ?? end?.cause;
      const title = h("div", { className: "row" },
        h("h1", {}, `${summary.definition} / ${summary.saga}`), badge(state), h("span", { className: "soft" }, "for ", age(since)),
        h("span", { className: "right" }),
        operator() && h("label", { className: "soft" }, h("input", { type: "checkbox", checked: payloads, on: { change: (e) => { payloads = e.target.checked; refresh(true); } } }), " payloads"),
        view.cancellable && operator() && button("Cancel…", () => askCancel(view)),
        !view.end && operator() && button("Abandon…", () => askAbandon(view), "danger"));
      const facts = h("p", { className: "soft" },
        `version ${summary.version}, ${view.commits} commits, started ${clock(summary.started_at)}, `,
        summary.owner ? "owned by worker " : "owned by nobody", summary.owner && h("span", { className: "mono" }, summary.owner),
        h("br"), "run ", h("span", { className: "mono" }, summary.run), beside(summary),
        summary.key_held_by && h("span", {}, ", which ", link(summary.key_held_by, "another saga"), " holds"));
      const blocked = view.blocked && h("div", { className: "card alarm" },
        h("strong", {}, `Blocked at ${view.blocked.at}`), h("div", {}, view.blocked.cause && sentence(causes[view.blocked.cause] ?? words(view.blocked.cause))),
        h("pre", {}, view.blocked.failure),
        h("div", { className: "row" }, verbsOf(view, view.blocked.at)));
      const unread = view.unread.map((body) => h("div", { className: "card" }, `Asked, and not read by its owner yet: ${"newer" in body ? "something that only a newer worker reads" : words(Object.keys(body)[0])}`));
      const unfit = view.unfit && h("div", { className: "card alarm" }, "Not shown to the end: ", view.unfit);
      const index = chosen ?? focus(view);
      const picture = view.steps.length
        ? h("div", { className: "card graph" }, graph(view.steps, index, (step) => { chosen = step; redraw(); }))
        : null;
      return [title, facts, because && h("p", {}, "Because: ", h("strong", {}, because)), blocked, unread, unfit,
        h("h2", {}, "Steps"), picture, view.steps[index] && drawStep(view, view.steps[index]),
        h("h2", {}, "History"), drawTimeline(timeline)];
    },
  },

  definitions: {
    load: () => api("/api/definitions"),
    draw(definitions) {
      if (!definitions.length) return [h("div", { className: "empty" }, "No worker has registered a definition yet.")];
      const heads = [["", "Definition"], ["number", "Version"], ["", "Steps"], ["number", "Running"], ["number", "Queued"], ["number", "Waiting"], ["number", "Blocked"], ["", ""]];
      return [table(heads, definitions.map((d) => [
        h("a", { href: `#/sagas?${query({ definition: d.name })}` }, d.name), d.version,
        h("span", { className: "soft" }, d.steps.join(" · ")), d.running, d.queued, d.waiting, d.blocked,
        d.overdue ? h("span", { className: "is-blocked" }, `${d.overdue.runs} overdue for `, age(d.overdue.since), `: ${d.overdue.why}`)
          : d.registered ? "" : "not registered",
      ]))];
    },
  },

  workers: {
    load: () => api("/api/workers"),
    draw(workers) {
      if (!workers.length) return [h("div", { className: "empty" }, "No worker is alive: nothing is driven until one starts.")];
      const heads = [["", "Worker"], ["", "Label"], ["number", "Sagas"], ["tight", "Renewed"], ["tight", "Joined"]];
      return [table(heads, workers.map((w) => [
        h("span", { className: "mono" }, w.id), w.label, w.sagas,
        w.fenced ? h("span", { className: "is-blocked" }, "fenced, not drained yet") : h("span", {}, age(w.renewed_at), " ago"),
        clock(w.joined_at).slice(0, 19) + "Z",
      ]))];
    },
  },
};

const causes = {
  in_doubt: "the action is in doubt and nothing can settle it",
  compensation_rejected: "the compensation was rejected: the effect stands",
  compensation_exhausted: "the compensation used up its attempts",
  rejected_after_pivot: "the step was rejected after the pivot: there is no way back and none forward",
  exhausted_after_pivot: "the step used up its attempts after the pivot",
  deadly: "the workers that run it die",
  child_in_pieces: "a child saga was ended partially compensated",
  misused: "the step's code ended the transaction that it was lent",
  unfit: "the journal does not fit the plan",
  malformed: "a payload does not read as the type the code expects",
};
const sentence = (text) => text[0].toUpperCase() + text.slice(1) + ".";
const operator = () => me?.role === "operator";
// A state is a name, or { ended: name }.
const stateName = (state) => (typeof state === "string" ? state : state.ended);

// The step to look at first: what needs a person, else what is under way, else the last one done.
function focus(view) {
  for (const look of ["stuck", "under_way", "undoing", "resting"]) {
    const index = view.steps.findIndex((step) => step.look === look);
    if (index >= 0) return index;
  }
  return view.steps.length - 1;
}

function drawGroup(group, runs) {
  const rows = runs.slice(0, 20).map((run) => [
    link(run.summary.run, run.summary.saga), run.stuck.at, h("span", {}, age(run.stuck.since)), run.stuck.failure,
  ]);
  return h("div", { className: "card alarm" },
    h("div", { className: "row" },
      h("strong", {}, `${group.runs} ${group.runs === 1 ? "saga" : "sagas"} at ${group.definition} / ${group.step}`),
      h("span", { className: "soft" }, "for up to ", age(group.first)),
      h("span", { className: "right" }), operator() && button("Retry…", () => askGroup(group))),
    h("div", {}, sentence(causes[group.cause] ?? words(group.cause))),
    h("pre", {}, group.message),
    table([["", "Saga"], ["tight", "At"], ["tight", "For"], ["", "Failure"]], rows),
    runs.length > 20 && h("p", { className: "soft" }, `and ${runs.length - 20} more`));
}

function drawStep(view, step) {
  const parts = [h("div", { className: "row" }, h("strong", {}, step.name), badge(step.look), h("span", { className: "soft" }, undoWords(step)))];
  for (const item of step.items) {
    const attempts = item.attempts.map((a) => [
      `${a.effect} ${a.number}`, a.outcome ? words(a.outcome) : "no end recorded", clock(a.started_at),
      a.ended_at ? `${Date.parse(a.ended_at) - Date.parse(a.started_at)} ms` : "", a.failure ?? "",
    ]);
    const one = step.kind !== "each";
    parts.push(h("div", { className: "row item" }, !one && h("strong", {}, item.at), !one && badge(item.look), item.in_doubt && h("span", { className: "badge is-stuck" }, "in doubt"),
      item.due && h("span", { className: "soft" }, Date.parse(item.due) > Date.now() ? "next attempt in " : "next attempt is due since ", age(item.due)),
      view.blocked?.at !== item.at && verbsOf(view, item.at)));
    if (attempts.length) parts.push(table([["tight", "Attempt"], ["tight", "Outcome"], ["tight", "Started"], ["number tight", "Took"], ["", "Failure"]], attempts));
    for (const name of ["input", "output"]) {
      if (item[name] !== null) parts.push(h("div", { className: "soft" }, name), h("pre", {}, JSON.stringify(item[name], null, 2)));
    }
  }
  return h("div", { className: "card" }, parts);
}

function undoWords(step) {
  if (step.undo === null) return "";
  if (typeof step.undo === "object") return `never undone: ${step.undo.nothing}`;
  return { with_output: "undone by its compensation", by_key: "undone by key", never: "not undone: it is the pivot or stands after it" }[step.undo];
}

function drawTimeline(timeline) {
  const rows = timeline.flatMap((entry) => entry.told.map((told, index) => [
    index ? "" : entry.number, index ? "" : clock(entry.at), told.at ?? "", h("span", { className: `tone-${told.tone}` }, told.text),
  ]));
  return table([["number", "#"], ["tight", "When"], ["tight", "Where"], ["", "What"]], rows);
}

function verbsOf(view, at) {
  if (!operator()) return [];
  const item = view.steps.flatMap((step) => step.items).find((item) => item.at === at);
  const say = { retry: "Retry…", resolve: "Resolve…", skip: "Skip…" };
  return (item?.verbs ?? []).map((verb) => button(say[verb], () => askVerb(view, item, verb), verb === "retry" ? "go" : verb === "skip" ? "danger" : ""));
}

// ---- asking

const explained = {
  retry: "The place is tried again now, under the same key.",
  resolve: "The place counts as done: an action with the output you give, a compensation as undone by hand. Nothing is called.",
  skip: "Its effect stays in the world, and no saga will ever undo it. The rest is undone, and the saga ends partially compensated.",
  abandon: "The saga ends as it stands: what it did stays, and nothing is undone. This cannot be taken back.",
};

function askVerb(view, item, verb) {
  const output = verb === "resolve" ? h("textarea", { ariaLabel: "output as JSON", value: "null", spellcheck: false }) : null;
  ask({
    title: `${sentence(verb).slice(0, -1)} ${item.at}`, danger: verb === "skip",
    about: [h("p", {}, explained[verb]), item.failure && h("pre", {}, item.failure),
      output && h("label", {}, "What the action would have given, as JSON"), output],
    body: () => ({ verb, at: item.at, ...(output ? { output: JSON.parse(output.value) } : {}) }),
    path: `/api/runs/${encodeURIComponent(view.summary.run)}/requests`,
  });
}

function askAbandon(view) {
  ask({
    title: "Abandon this saga", danger: true, about: [h("p", {}, explained.abandon)], body: () => ({ verb: "abandon" }),
    path: `/api/runs/${encodeURIComponent(view.summary.run)}/requests`,
  });
}

async function askCancel(view) {
  const run = encodeURIComponent(view.summary.run);
  let preview;
  try { preview = await api(`/api/runs/${run}/preview`); } catch (error) { return tell(error.message); }
  if (!preview.accepted) return tell(`A cancel would be refused: ${preview.why}.`);
  const list = (title, entries) => entries.length ? [h("strong", {}, title), h("ul", {}, entries.map((entry) => h("li", {}, entry)))] : [];
  const waves = preview.undone.map((wave) => wave.map((u) => u.at + (u.if_it_happened ? " (if it happened)" : "")).join(", "));
  ask({
    title: "Cancel this saga", danger: true,
    about: [
      list("Settled first, because it may have taken effect", preview.in_doubt.map((d) => `${d.at}, by its ${d.settled_by}`)),
      preview.waits && h("p", {}, "It waits for a next attempt, until ", clock(preview.waits).slice(0, 19) + "Z."),
      waves.length ? [h("strong", {}, "Undone, in this order"), h("ol", {}, waves.map((wave) => h("li", {}, wave)))] : h("p", {}, "Nothing has to be undone."),
      list("Stays as it is", preview.stays.map((s) => `${s.at}: ${s.why}`)),
      preview.blocks && h("p", { className: "is-blocked" }, `It would then need a person at ${preview.blocks.at}: ${preview.blocks.failure}`),
    ],
    body: () => ({ verb: "cancel" }), path: `/api/runs/${run}/requests`,
  });
}

function askGroup(group) {
  const limit = h("input", { type: "number", min: 1, max: group.runs, value: Math.min(group.runs, Math.max(1, Math.ceil(group.runs / 20))) });
  ask({
    title: `Retry at ${group.definition} / ${group.step}`,
    about: [h("p", {}, "The longest blocked are asked first. See how a few fare before you ask all."), h("pre", {}, group.message),
      h("label", {}, `How many of ${group.runs}`), limit],
    body: () => ({ limit: Number(limit.value) }), path: `/api/blocked/${encodeURIComponent(group.id)}/retry`, once: false,
  });
}

const answers = {
  accepted: "Accepted: its owner has recorded it.",
  too_late: "Too late: the pivot has begun, or the saga undoes what it did already.",
  unanswered: "No answer yet. The request is kept, and its owner will answer when it reads it.",
};

function said(reply) {
  if (reply.runs) {
    const tally = Object.entries(Object.groupBy(reply.runs, (run) => run.answer ?? "not asked"));
    return { good: reply.runs.every((run) => run.answer === "accepted"), text: tally.map(([answer, runs]) => `${runs.length} ${words(answer)}`).join(", ") };
  }
  if (reply.answer === "refused") return { good: false, text: `Refused: ${reply.why}` };
  if (reply.answer === "ended") return { good: false, text: `The saga has ended (${words(reply.end)}); the request changed nothing.` };
  return { good: reply.answer === "accepted", text: answers[reply.answer] };
}

function ask({ title, about, body, path, danger = false, once = true }) {
  // One id for one request: sent again while it has no answer, it is asked once. What is said anew, or after an
  // answer, is another request.
  let mail, sent;
  const who = h("input", { value: me.name ?? localStorage.getItem("who") ?? "", disabled: me.name !== null, required: true, maxLength: 100 });
  const why = h("input", { required: true, maxLength: 500, placeholder: "kept in the saga's journal" });
  const answer = h("div");
  const confirm = h("button", { className: danger ? "danger" : "go" }, title);
  const form = h("form", { method: "dialog", on: { submit: async (event) => {
    event.preventDefault();
    if (!who.value.trim() || !why.value.trim()) return;
    if (me.name === null) localStorage.setItem("who", who.value);
    confirm.disabled = true;
    let outcome;
    try {
      const request = { ...body(), who: who.value, why: why.value };
      if (sent !== JSON.stringify(request)) [sent, mail] = [JSON.stringify(request), crypto.randomUUID?.()];
      const reply = await api(path, once && mail ? { ...request, mail } : request);
      if (reply.answer !== "unanswered") sent = undefined;
      outcome = said(reply);
    } catch (error) { outcome = { good: false, text: error.message }; }
    answer.replaceChildren(h("div", { className: `answer ${outcome.good ? "good" : "bad"}` }, outcome.text));
    if (outcome.good) confirm.remove(); else confirm.disabled = false;
    refresh(true);
  } } },
  h("h2", {}, title), about, h("label", {}, "Who asks"), who, h("label", {}, "Why"), why, answer,
  h("div", { className: "actions" }, button("Close", () => dialog.close()), confirm));
  dialog.replaceChildren(form);
  dialog.showModal();
  (who.value ? why : who).focus();
}

function tell(text) {
  dialog.replaceChildren(h("p", {}, text), h("div", { className: "actions" }, button("Close", () => dialog.close())));
  dialog.showModal();
}

function askToken() {
  if (dialog.open) return;
  const token = h("input", { type: "password", required: true, autocomplete: "off" });
  dialog.replaceChildren(h("form", { method: "dialog", on: { submit: (event) => {
    event.preventDefault();
    sessionStorage.setItem("token", token.value.trim());
    dialog.close();
    refresh(true);
  } } },
  h("h2", {}, "Token"), h("p", { className: "soft" }, "This console is for people with a token. It is kept until this tab is closed."),
  h("label", {}, "Token"), token, h("div", { className: "actions" }, h("button", { className: "go" }, "Go on"))));
  dialog.showModal();
}

// ---- moving around, and staying fresh

function place() {
  const [path, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, run] = path.split("/");
  const filters = Object.fromEntries(new URLSearchParams(search));
  const page = pages[name] ? name : "attention";
  return { page, run: run && decodeURIComponent(run), filters };
}

let drawn = null;
function redraw() {
  const { page } = place();
  main.replaceChildren(...pages[page].draw(drawn).flat(Infinity).filter(Boolean));
  for (const anchor of document.querySelectorAll("nav a")) anchor.classList.toggle("here", anchor.dataset.page === page);
}

let asked = 0;
async function refresh(force = false) {
  const at = place();
  const number = ++asked;
  try {
    me ??= await api("/api/me");
    document.querySelector(".brand").textContent = me.title;
    document.title = me.title;
    const data = await pages[at.page].load(at);
    if (number !== asked) return; // a later look is under way
    const now = JSON.stringify([at, data]);
    if (force || now !== shown) { shown = now; drawn = data; redraw(); }
    pulse.className = "";
    pulse.textContent = `as of ${new Date().toLocaleTimeString("en-GB")}`;
  } catch (error) {
    if (number !== asked) return;
    if (error.status === 401) { me = null; sessionStorage.removeItem("token"); askToken(); }
    pulse.className = "bad";
    pulse.textContent = error.status ? "refused" : "no answer";
    if (drawn === null || error.status === 404) main.replaceChildren(h("div", { className: "empty" }, error.message));
  }
}

addEventListener("hashchange", () => { chosen = null; shown = ""; scrollTo(0, 0); refresh(true); });
setInterval(() => {
  const typing = main.contains(document.activeElement) && /INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName);
  if (!document.hidden && !dialog.open && !typing) refresh();
}, REFRESH);

document.getElementById("find").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = event.target.text.value.trim();
  const [definition, ...rest] = text.split("/");
  if (!rest.length) { location.hash = `#/run/${encodeURIComponent(text)}`; return; }
  try {
    const found = await api(`/api/sagas/${encodeURIComponent(definition)}/${encodeURIComponent(rest.join("/"))}`);
    location.hash = `#/run/${found.run}`;
  } catch (error) { tell(error.message); }
});

refresh(true);
