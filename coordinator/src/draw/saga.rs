//! One saga as a tree: every step below the last step it needs, the others named beside it.

use std::fmt::Write;

use saga_core::admin::{Item, Look, Step, Unread, View};
use saga_core::journal::{Effect, End, MailBody, Timestamp};
use saga_core::saga::{Kind, Undo};
use saga_core::store::State;

use super::{Colour, clean, since, state, words};

/// Draws a saga.
pub(crate) fn saga(view: &View, now: Timestamp) -> String {
    let mut text = head(view, now);
    if !view.steps.is_empty() {
        text.push('\n');
        let tree = Tree { steps: &view.steps, now };
        tree.draw(0, "", &mut text);
    }
    if let Some(unfit) = &view.unfit {
        let _ = writeln!(text, "\n{}", Colour::Red.paint(&format!("not shown to the end: {}", clean(unfit))));
    }
    for unread in &view.unread {
        let _ = match unread {
            Unread::Known(body) => writeln!(text, "\nnot read by its owner yet: {}", request(body)),
            Unread::Foreign { newer } => writeln!(
                text,
                "\nwaits for a newer worker: it was told something in format {newer}, which this program does not know"
            ),
        };
    }
    text
}

fn head(view: &View, now: Timestamp) -> String {
    let run = &view.summary;
    let mut text = format!("{}/{}  version {}\n", run.definition, clean(&run.saga), run.version);
    let age = view.blocked.as_ref().map_or(run.since, |stuck| stuck.since);
    let _ = writeln!(text, "{} for {}", state(run.state), since(age, now));
    if let Some(stuck) = &view.blocked {
        let _ = writeln!(text, "  at {}: {}: {}", stuck.at, stuck.cause, clean(stuck.failure.message()));
    }
    match (&view.end, &view.cause) {
        (Some(End::Completed { .. }) | None, None) | (Some(End::Completed { .. }), Some(_)) => {}
        (Some(End::Compensated { cause } | End::PartiallyCompensated { cause }), _) | (None, Some(cause)) => {
            let _ = writeln!(text, "  because {}", clean(cause.message()));
        }
    }
    if let Some(due) = run.due.filter(|due| *due > now) {
        let _ = writeln!(text, "  goes on in {}", since(now, due));
    }
    if let Some(key) = &run.key {
        let key = clean(key.as_str());
        let _ = match (run.state, run.key_held_by) {
            (State::Queued, Some(holder)) => {
                writeln!(text, "  waits for key {key}, which run {holder} holds")
            }
            (State::Queued, None) => writeln!(text, "  waits for its turn under key {key}"),
            _ => writeln!(text, "  holds key {key}"),
        };
    }
    if !run.priority.is_normal() {
        let _ = writeln!(text, "  {} priority", run.priority.as_str());
    }
    if !run.attributes.is_empty() {
        let _ = writeln!(text, "  {}", clean(&run.attributes.to_string()));
    }
    let owner = run.owner.map_or("nobody".into(), |owner| format!("worker {owner}"));
    let _ = writeln!(text, "run {}, started {}", run.run, run.started_at.format("%Y-%m-%d %H:%M:%SZ"));
    let _ = writeln!(text, "owned by {owner}, {} commits", view.commits);
    text
}

fn request(body: &MailBody) -> String {
    clean(&match body {
        MailBody::Cancel { reason } => format!("cancel ({reason})"),
        MailBody::Abandon { who, why } => format!("abandon by {who} ({why})"),
        MailBody::Operator { at, who, why, .. } => format!("a decision about {at} by {who} ({why})"),
        MailBody::Damaged { .. } => "something that does not read any more".into(),
    })
}

struct Tree<'a> {
    steps: &'a [Step],
    now: Timestamp,
}

impl Tree<'_> {
    /// Every step that stands before another.
    fn needs(&self, step: usize) -> impl Iterator<Item = usize> + '_ {
        self.steps[step].reads.iter().chain(&self.steps[step].after).copied()
    }

    /// Where a step hangs: below the last step it needs, or below the input.
    fn parent(&self, step: usize) -> usize {
        self.needs(step).max().unwrap_or(0)
    }

    fn draw(&self, step: usize, indent: &str, text: &mut String) {
        if step == 0 {
            let _ = writeln!(text, "{} {}", mark(Look::Done), self.steps[0].name);
        }
        let children: Vec<usize> = (1..self.steps.len()).filter(|&s| self.parent(s) == step).collect();
        for (place, &child) in children.iter().enumerate() {
            let last = place + 1 == children.len();
            let (fork, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let _ = writeln!(text, "{indent}{fork}{}", self.line(child));
            let below = format!("{indent}{below}");
            self.items(child, children_of(self, child), &below, text);
            self.draw(child, &below, text);
        }
    }

    fn line(&self, step: usize) -> String {
        let drawn = &self.steps[step];
        let mut line = format!("{} {}", mark(drawn.look), drawn.name);
        let kind = match drawn.kind {
            Kind::Pivot => " (pivot)".into(),
            Kind::Each if drawn.items.is_empty() => " (for each)".into(),
            Kind::Each => format!(" (for each of {})", drawn.items.len()),
            Kind::Input | Kind::Derive | Kind::Step => String::new(),
        };
        line.push_str(&kind);
        match (drawn.kind, drawn.items.as_slice()) {
            (Kind::Derive, _) if drawn.look == Look::Done => line.push_str("  computed"),
            (Kind::Step | Kind::Pivot | Kind::Derive, [item]) => {
                let _ = write!(line, "  {}", self.status(drawn, item));
            }
            _ => {}
        }
        // The pivot waits for everything before it: that is what it is.
        let parent = self.parent(step);
        let mut others: Vec<usize> = self.needs(step).filter(|&need| need != parent && need != 0).collect();
        others.sort_unstable();
        others.dedup();
        if drawn.kind != Kind::Pivot && !others.is_empty() {
            let names: Vec<_> = others.iter().map(|&other| self.steps[other].name.as_str()).collect();
            line.push_str(&Colour::Grey.paint(&format!("  also after {}", names.join(", "))));
        }
        line
    }

    fn items(&self, step: usize, has_children: bool, indent: &str, text: &mut String) {
        let drawn = &self.steps[step];
        if drawn.kind != Kind::Each {
            return;
        }
        let bar = if has_children { "│ " } else { "  " };
        for item in &drawn.items {
            let _ =
                writeln!(text, "{indent}{bar}{} {}  {}", mark(item.look), item.at, self.status(drawn, item));
        }
    }

    /// Where an item stands, in words.
    fn status(&self, step: &Step, item: &Item) -> String {
        let failure = item.failure.as_ref().map(|failure| clean(failure.message())).unwrap_or_default();
        let last = item.attempts.last();
        let attempt = last.map_or(String::new(), |a| format!("{}, attempt {}", a.effect, a.number));
        let mut status = match item.look {
            Look::Idle => String::new(),
            Look::Done | Look::Undone | Look::Left => item.look.as_str().into(),
            Look::Refused => format!("refused: {failure}"),
            Look::Stuck => {
                let cause = item.cause.map(|cause| format!("{cause}: ")).unwrap_or_default();
                format!("BLOCKED: {cause}{failure}  [{}]", item.verbs.join(", "))
            }
            Look::UnderWay | Look::Undoing | Look::Resting => match (item.due, last) {
                (Some(due), Some(last)) => {
                    let why = last.failure.as_ref().map(|f| clean(f.message())).unwrap_or_default();
                    format!("next {} in {}: {why}", last.effect, since(self.now, due))
                }
                (None, Some(last)) => format!("{attempt}, for {}", since(last.started_at, self.now)),
                _ => words(item.look.as_str()),
            },
        };
        let tries = item.attempts.iter().filter(|a| a.effect == Effect::Action).count();
        if item.look == Look::Done && tries > 1 {
            let _ = write!(status, " at attempt {tries}");
        }
        if item.in_doubt {
            status.push_str(", in doubt");
        }
        if let (Some(Undo::Nothing(why)), Look::Done) = (&step.undo, item.look) {
            status.push_str(&Colour::Grey.paint(&format!("  never undone: {}", clean(why))));
        }
        for (name, payload) in [("in", &item.input), ("out", &item.output)] {
            if let Some(payload) = payload {
                let _ = write!(status, "  {name} {}", clean(payload.as_str()));
            }
        }
        status
    }
}

fn children_of(tree: &Tree<'_>, step: usize) -> bool {
    (1..tree.steps.len()).any(|other| tree.parent(other) == step)
}

fn mark(look: Look) -> String {
    let mark = match look {
        Look::Idle => "·",
        Look::Done => "✔",
        Look::Undone => "↺",
        Look::Left => "!",
        Look::Refused => "✘",
        Look::Resting => "…",
        Look::Undoing => "↶",
        Look::UnderWay => "▶",
        Look::Stuck => "■",
    };
    Colour::of(look).paint(mark)
}
