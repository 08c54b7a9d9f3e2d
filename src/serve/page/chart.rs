//! The last runs as small charts, drawn as SVG: what changed, what failed, how long it took.

use maud::{Markup, html};

use super::words::{full, took};
use crate::domain::RunRecord;

/// The width of the place of one run, and of its bar, in units of the drawing.
const PLACE: usize = 10;
const BAR: usize = 8;

/// The height of the drawing.
const HEIGHT: f64 = 40.0;

/// So high is the bar of the smallest number that is not nought.
const LEAST: f64 = 3.0;

/// Charts of runs, which are given newest first and drawn oldest first.
pub(super) fn charts(runs: &[RunRecord]) -> Markup {
    let changed = |run: &RunRecord| number(run.changes.values().sum());
    let failed = |run: &RunRecord| number(run.failed);
    let time = |run: &RunRecord| (run.ended - run.began).as_seconds_f64().max(0.0);
    let most = |of: &dyn Fn(&RunRecord) -> f64| runs.iter().map(of).fold(0.0, f64::max);
    let slowest = runs.iter().map(|run| run.ended - run.began).max().unwrap_or_default();
    html! {
        div.chart {
            div { b { "changed" } "most " (most(&changed)) }
            (chart(runs, "changed", &changed, &|run| format!("{} changed", changed(run))))
            div { b { "failed" } "most " (most(&failed)) }
            (chart(runs, "failed", &failed, &|run| format!("{} failed", failed(run))))
            div { b { "time" } "most " (took(slowest)) }
            (chart(runs, "time", &time, &|run| took(run.ended - run.began)))
        }
    }
}

fn chart(
    runs: &[RunRecord],
    class: &str,
    of: &dyn Fn(&RunRecord) -> f64,
    say: &dyn Fn(&RunRecord) -> String,
) -> Markup {
    let most = runs.iter().map(of).fold(0.0, f64::max);
    let width = runs.len().max(12) * PLACE;
    // The newest stands at the right edge.
    let bars = runs.iter().enumerate().map(|(age, run)| (width - (age + 1) * PLACE, run));
    html! {
        svg viewBox=(format!("0 0 {width} {HEIGHT}")) preserveAspectRatio="none" role="img"
            aria-label=(format!("{class}, the last {} runs", runs.len())) {
            line.base x1="0" x2=(width) y1=(HEIGHT) y2=(HEIGHT) {}
            @for (x, run) in bars {
                @let height = height(of(run), most);
                @if height > 0.0 {
                    rect class=(class) x=(x) y=(format!("{:.1}", HEIGHT - height)) width=(BAR)
                        height=(format!("{height:.1}")) {
                        title { "run " (run.id) ", " (full(run.began)) ": " (say(run)) }
                    }
                }
            }
        }
    }
}

/// The height of a bar.
fn height(value: f64, most: f64) -> f64 {
    if value <= 0.0 || most <= 0.0 { 0.0 } else { LEAST + (HEIGHT - LEAST) * (value / most) }
}

#[allow(clippy::cast_precision_loss, reason = "a bar is 40 units high")]
fn number(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_number_fills_the_height_and_the_smallest_can_be_seen() {
        assert_eq!(height(0.0, 10.0), 0.0);
        assert_eq!(height(0.0, 0.0), 0.0);
        assert_eq!(height(10.0, 10.0), HEIGHT);
        assert!(height(1.0, 100_000.0) >= LEAST);
    }
}
