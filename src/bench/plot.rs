//! Latency by percentile, as pictures within a page: the scale is HdrHistogram's, so the tail takes as much room as the rest.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;

use crate::output::Failure;

use super::figures::Distribution;

/// One run of one cell.
#[derive(Debug)]
pub(super) struct Curve {
    /// Which of [`COLOURS`].
    pub(super) colour: usize,
    /// The one run of its cell that stands for the others.
    pub(super) is_median: bool,
    pub(super) distribution: Distribution,
}

/// Colours of lines on a light page, told apart also by those who see fewer; the page's style has their like for dark ones.
pub(super) const COLOURS: [RGBColor; 6] = [
    RGBColor(0x2A, 0x78, 0xD6),
    RGBColor(0xEB, 0x68, 0x34),
    RGBColor(0x1B, 0xAF, 0x7A),
    RGBColor(0xED, 0xA1, 0x00),
    RGBColor(0xE8, 0x7B, 0xA4),
    RGBColor(0x4A, 0x3A, 0xA7),
];
/// What never came.
const NEVER: RGBColor = RGBColor(0xC6, 0x28, 0x28);
/// Words, axes and grid: the page's style has them as well.
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const GRID: RGBColor = RGBColor(0xDD, 0xDD, 0xDD);

const SIZE: (u32, u32) = (900, 500);
const FONT: (&str, u32) = ("sans-serif", 24);
/// Part of the height kept free above the slowest, for what never came.
const HEADROOM: f64 = 0.08;

/// What a plot shows, on both axes as powers of ten. Plots of one page have the same, so that they can be compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    one_of: f64,
    us: (f64, f64),
}

impl Scale {
    /// That holds all of these, with a little room.
    pub(super) fn of<'a>(all: impl Iterator<Item = &'a Distribution>) -> Self {
        let mut scale = Self {
            one_of: 10.0,
            us: (f64::INFINITY, 1.0),
        };
        for distribution in all {
            for &(one_of, us) in &distribution.points {
                scale.one_of = scale.one_of.max(one_of);
                let us = us.max(1.0);
                scale.us = (scale.us.0.min(us), scale.us.1.max(us));
            }
            scale.one_of = scale.one_of.max(distribution.never_from.unwrap_or(1.0));
        }
        let low = (scale.us.0.min(scale.us.1).log10() - 0.1).max(0.0);
        let high = (scale.us.1.log10() + 0.1).max(low + 1.0);
        Self {
            one_of: scale.one_of.log10(),
            us: (low, high),
        }
    }

    fn top(self) -> f64 {
        self.us.1 + (self.us.1 - self.us.0) * HEADROOM
    }

    /// 50 %, 90 %, 99 % and so on, as far as there is something.
    fn ticks(self) -> Vec<f64> {
        let powers = (1..10).map(f64::from);
        let powers = powers.take_while(|&power| power <= self.one_of + 1e-9);
        std::iter::once(2_f64.log10()).chain(powers).collect()
    }

    /// 1, 2 and 5 of each power of ten.
    fn marks(self) -> Vec<f64> {
        let powers = (0..10).map(f64::from);
        powers
            .flat_map(|power| [1.0, 2.0, 5.0].map(|step: f64| power + step.log10()))
            .filter(|mark| (self.us.0 - 1e-9..=self.us.1).contains(mark))
            .collect()
    }
}

/// One axis, on which powers of ten are as far apart as numbers on others. Its marks are where a reader expects them.
struct Axis {
    ends: Range<f64>,
    marks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    #[expect(
        clippy::cast_possible_truncation,
        reason = "pixels: rounded, and within the picture"
    )]
    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let part = (value - self.ends.start) / (self.ends.end - self.ends.start);
        from + (part.clamp(0.0, 1.0) * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.marks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.ends.clone()
    }
}

/// `0.3010` is 50 %, 2 is 99 %.
fn percentile(log: &f64) -> String {
    // As many nines as it takes: one behind the point from the third power on.
    let digits = (3..10).take_while(|&power| f64::from(power) < log + 0.5);
    let percent = 100.0 - 100.0 / 10_f64.powf(*log);
    format!("{percent:.*} %", digits.count())
}

fn microseconds(log: &f64) -> String {
    super::results::shown(10_f64.powf(*log).round())
}

/// Draws them into one picture, `label` for those who do not see it.
pub(super) fn svg(curves: &[Curve], scale: Scale, label: &str) -> Result<String, Failure> {
    let mut svg = String::new();
    draw(&mut svg, curves, scale)
        .map_err(|error| Failure::Failed(format!("cannot draw: {error}")))?;
    let label = super::report::Escaped(label);
    // Within a page it needs no namespace, and its size is the page's affair.
    let (_, rest) = svg.split_once('>').unwrap_or_default();
    let (width, height) = SIZE;
    Ok(format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{label}\">{rest}"
    ))
}

type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn draw<'a>(svg: &'a mut String, curves: &[Curve], scale: Scale) -> Drawn<'a> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    let x = Axis {
        ends: 0.0..scale.one_of,
        marks: scale.ticks(),
    };
    let y = Axis {
        ends: scale.us.0..scale.top(),
        marks: scale.marks(),
    };
    let mut chart = ChartBuilder::on(&area)
        .margin(12)
        .margin_right(40)
        .x_label_area_size(64)
        .y_label_area_size(104)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .axis_style(INK)
        .label_style(FONT.into_font().color(&INK))
        .x_label_formatter(&percentile)
        .y_label_formatter(&microseconds)
        .x_desc("messages that have come everywhere")
        .y_desc("within so many us")
        .draw()?;
    // The thin ones first, that they cover nothing.
    let (median, others): (Vec<_>, Vec<_>) = curves.iter().partition(|curve| curve.is_median);
    for curve in others.into_iter().chain(median) {
        let colour = COLOURS[curve.colour % COLOURS.len()];
        let (style, width) = if curve.is_median {
            (colour.mix(1.0), 4)
        } else {
            (colour.mix(0.4), 2)
        };
        let log = |&(one_of, us): &(f64, f64)| (one_of.log10(), us.max(1.0).log10());
        let points: Vec<_> = curve.distribution.points.iter().map(log).collect();
        let end = points.last().copied();
        chart.draw_series(LineSeries::new(points, style.stroke_width(width)))?;
        if let Some(never) = curve.distribution.never_from {
            let (from, top) = (never.log10(), scale.top());
            let wall = end.into_iter().chain([(from, top), (scale.one_of, top)]);
            chart.draw_series(LineSeries::new(wall, NEVER.stroke_width(width)))?;
            let font = FONT.into_font().color(&NEVER);
            let word = Text::new("never", (from, top), font);
            chart.draw_series(std::iter::once(word))?;
        }
    }
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_written_with_as_many_nines_as_they_have() {
        let logs = [2_f64.log10(), 1.0, 2.0, 3.0, 4.0, 5.0];
        assert_eq!(
            logs.map(|log| percentile(&log)),
            ["50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]
        );
    }

    #[test]
    fn nothing_and_never_can_be_drawn() {
        let never = Distribution {
            points: Vec::new(),
            never_from: Some(1.0),
        };
        let curve = |distribution: &Distribution| Curve {
            colour: 7,
            is_median: true,
            distribution: distribution.clone(),
        };
        for distribution in [Distribution::default(), never] {
            let scale = Scale::of(std::iter::once(&distribution));
            let svg = svg(&[curve(&distribution)], scale, "a \"plot\"").unwrap();
            assert!(svg.starts_with("<svg viewBox") && svg.trim_end().ends_with("</svg>"));
            assert!(
                svg.contains("a &quot;plot&quot;") && !svg.contains("http"),
                "{svg}"
            );
            assert_eq!(svg.contains(">\nnever"), distribution.never_from.is_some());
        }
    }
}
