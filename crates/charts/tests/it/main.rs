//! Figures as people see them, and what hostile numbers do to them.

use charts::{Band, Frame, Ink, fan};

fn ramp() -> (Vec<f64>, Vec<Band>) {
    let history = vec![0.0, 2.0, 2.0, f64::NAN, 6.0, 8.0];
    let bands = vec![
        Band { lo: 6.0, mid: 8.0, hi: 10.0 },
        Band { lo: 4.0, mid: 8.0, hi: 12.0 },
        Band { lo: 2.0, mid: 4.0, hi: 14.0 },
    ];
    (history, bands)
}

fn draw(ink: Ink) -> String {
    let (history, bands) = ramp();
    fan(&history, &bands, &Frame { width: 40, height: 8, step: "h".into(), ink })
}

#[test]
fn a_line_opens_into_a_band() {
    let expect = "
        14┤      ┊  ░
          │      ┊ ░░
          │      ┊░░░
         8┤     ╭┊──╮
          │    ─╯┊░░│
          │      ┊ ░╰
          │ ╭─   ┊  ░
         0┤─╯    ┊
          └──────┴───
           -6 h  now";
    assert_eq!(draw(Ink::PLAIN), format!("{}\n", &expect[1..]));
}

#[test]
fn ascii_tells_the_same() {
    let expect = "
        14+      |  :
          |      | ::
          |      |:::
         8+     *|oo:
          |    * |:::
          |      | :o
          | **   |  :
         0+*     |
          +------+---
           -6 h  now";
    assert_eq!(draw(Ink::ASCII), format!("{}\n", &expect[1..]));
}

#[test]
fn colour_adds_escapes_and_nothing_else() {
    let colored = draw(Ink::FULL);
    assert!(colored.contains("\u{1b}[36m") && colored.contains("\u{1b}[0m"));
    let mut plain = String::new();
    for (k, piece) in colored.split("\u{1b}[").enumerate() {
        plain.push_str(if k == 0 { piece } else { piece.split_once('m').unwrap().1 });
    }
    assert_eq!(plain, draw(Ink::PLAIN));
}

#[test]
fn three_days_and_a_day_fit_eighty_columns() {
    let history: Vec<f64> = (0..72).map(|h| 40.0 + 20.0 * (f64::from(h) / 3.8).sin()).collect();
    let bands: Vec<Band> = (0..24)
        .map(|h| {
            let mid = 40.0 + 20.0 * (f64::from(72 + h) / 3.8).sin();
            Band { lo: mid - 5.0, mid, hi: mid + 8.0 }
        })
        .collect();
    let text = fan(&history, &bands, &Frame::default());
    assert_eq!(text.lines().count(), 14);
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    let words = text.lines().last().unwrap();
    assert!(words.contains("-72 h") && words.contains("now") && words.contains("+24 h"), "{words}");
    assert!(text.contains('░') && text.contains('╭'));
}

#[test]
fn strange_numbers_never_panic() {
    let strange = [f64::NAN, f64::INFINITY, f64::MIN, f64::MAX, 0.0, -0.0, 1e-308];
    for len in [0usize, 1, 2, 5, 500] {
        for ahead in [0usize, 1, 3, 500] {
            for (width, height) in [(0, 0), (24, 4), (usize::MAX, usize::MAX), (81, 9)] {
                let history: Vec<f64> = (0..len).map(|k| strange[k % strange.len()]).collect();
                let bands: Vec<Band> = (0..ahead)
                    .map(|k| Band {
                        lo: strange[(k + 1) % 7],
                        mid: strange[(k + 2) % 7],
                        hi: strange[(k + 3) % 7],
                    })
                    .collect();
                for ink in [Ink::ASCII, Ink::PLAIN, Ink::FULL] {
                    let frame = Frame { width, height, step: "\u{1b}steps".into(), ink };
                    let text = fan(&history, &bands, &frame);
                    assert!(text.ends_with('\n'));
                    if !ink.color {
                        let widest = text.lines().map(|line| line.chars().count()).max();
                        assert!(widest <= Some(width.clamp(24, 400)), "{width}: {text}");
                        assert!(!text.contains('\u{1b}'));
                    }
                }
            }
        }
    }
}

#[test]
fn nothing_to_draw_says_so() {
    assert_eq!(fan(&[], &[], &Frame::default()), "no value to draw\n");
    assert_eq!(fan(&[f64::NAN], &[], &Frame::default()), "no value to draw\n");
}

#[test]
fn a_series_that_does_not_move_lies_in_the_middle() {
    let text = fan(&[5.0; 6], &[], &Frame { height: 5, ..Frame::default() });
    let drawn: Vec<&str> = text.lines().collect();
    assert!(drawn[2].contains("5┤──────"), "{text}");
    assert!(drawn[0].trim_start().starts_with("5.5"), "{text}");
}
