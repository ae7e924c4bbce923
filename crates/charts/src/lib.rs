//! Figures as terminal text: a fan chart, a sparkline, an aligned table.
//!
//! Pure: numbers and words in, text out; nothing here asks for the terminal's size, its
//! colours or the environment. The caller says what it may use with [`Ink`].
//!
//! Invariants
//! * No line is wider than the width asked for, and every figure ends with a line break.
//! * Without colour and without Unicode nothing is lost but beauty: history, median and band
//!   are still told apart by their signs.
//! * Words handed in reach the terminal without control characters: a station's name cannot
//!   move the cursor.
//!
//! ```
//! use charts::{Band, Frame, Ink, fan};
//!
//! let history: Vec<f64> = (0..48).map(|h| 50.0 + f64::from(h % 24)).collect();
//! let ahead: Vec<Band> =
//!     (0..24).map(|h| Band { lo: 40.0, mid: 50.0 + f64::from(h), hi: 80.0 }).collect();
//! let text = fan(&history, &ahead, &Frame { ink: Ink::ASCII, ..Frame::default() });
//! assert!(text.contains("now") && text.lines().all(|line| line.len() <= 80));
//! ```

mod beside;
mod fan;
mod number;
mod spark;
mod table;

pub use beside::beside;
pub use fan::{Band, Frame, fan};
pub use number::number;
pub use spark::sparkline;
pub use table::{Table, plain};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ink {
    /// ANSI colours; false for pipes and under `NO_COLOR`.
    pub color: bool,
    /// Box drawing and shades; false where only ASCII is safe.
    pub unicode: bool,
}

impl Ink {
    /// Signs of ASCII only, no colour.
    pub const ASCII: Ink = Ink { color: false, unicode: false };
    /// Box drawing without colour.
    pub const PLAIN: Ink = Ink { color: false, unicode: true };
    /// Everything.
    pub const FULL: Ink = Ink { color: true, unicode: true };
}
