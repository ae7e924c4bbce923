//! What lies between the values of a record, remembered from records before.
//!
//! Following a shape is safe because every byte that is not part of a value is compared, and
//! a shape is only made of a record that was read key by key and found good: its keys are
//! known, valid and different.

/// Shapes remembered at a time.
const SHAPES: usize = 4;

/// Misses in a row after which only one in so many is remembered: the stream has no shape.
const MISSES_MANY: u32 = 16;

/// What follows a literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// A value of this column.
    Value(usize),
    /// A value of no column.
    Skip,
    /// Nothing: the record ends.
    End,
}

/// Where the literals of one record lie: from, to, and what follows.
pub(super) type Trace = Vec<(usize, usize, Then)>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    literal: Box<[u8]>,
    then: Then,
}

/// The literals of a record; the last part ends it.
#[derive(Debug)]
struct Shape {
    parts: Vec<Part>,
    /// Columns that the record does not name.
    absent: Vec<usize>,
}

/// The shapes of late.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    all: Vec<Shape>,
    /// `shared[a][b]`: parts at the front that two shapes have in common.
    shared: Vec<Vec<usize>>,
    recent: usize,
    /// Where the next new shape goes once there are enough.
    oldest: usize,
    misses: u32,
}

impl Shapes {
    /// Reads the record at `start` along a shape. `value(column, at)` reads a value and says
    /// where it ends, or gives up. Answers where the record ends and which columns it lacks.
    #[inline]
    pub(super) fn follow(
        &mut self,
        buf: &[u8],
        start: usize,
        mut value: impl FnMut(Option<usize>, usize) -> Option<usize>,
    ) -> Option<(usize, &[usize])> {
        let mut at = start;
        let mut part = 0;
        let mut parts = &self.all.get(self.recent)?.parts[..];
        loop {
            let mut next = parts.get(part)?;
            if !starts_with(buf, at, &next.literal) {
                // The new shape agrees with the old one on all that was read.
                self.recent = self.other(part, &buf[at..])?;
                parts = &self.all[self.recent].parts;
                next = &parts[part];
            }
            at += next.literal.len();
            at = match next.then {
                Then::Value(column) => value(Some(column), at)?,
                Then::Skip => value(None, at)?,
                Then::End => {
                    self.misses = 0;
                    return Some((at, &self.all[self.recent].absent));
                }
            };
            part += 1;
        }
    }

    /// Another shape that agrees with the recent one on everything before `part` and goes on
    /// as `rest` does.
    #[cold]
    fn other(&self, part: usize, rest: &[u8]) -> Option<usize> {
        (0..self.all.len()).find(|&other| {
            other != self.recent
                && self.shared[self.recent][other] >= part
                && self.all[other].parts.get(part).is_some_and(|p| rest.starts_with(&p.literal))
        })
    }

    /// Remembers a record that no shape fitted.
    pub(super) fn remember(
        &mut self,
        buf: &[u8],
        trace: &Trace,
        absent: impl FnOnce() -> Vec<usize>,
    ) {
        self.misses = self.misses.saturating_add(1);
        if self.misses > MISSES_MANY && !self.misses.is_multiple_of(MISSES_MANY) {
            return;
        }
        let part = |&(from, to, then): &_| Part { literal: buf[from..to].into(), then };
        let shape = Shape { parts: trace.iter().map(part).collect(), absent: absent() };
        if self.all.len() < SHAPES {
            self.recent = self.all.len();
            self.all.push(shape);
        } else {
            self.recent = self.oldest;
            self.all[self.oldest] = shape;
            self.oldest = (self.oldest + 1) % SHAPES;
        }
        let shared =
            |a: &Shape, b: &Shape| a.parts.iter().zip(&b.parts).take_while(|(a, b)| a == b).count();
        self.shared =
            self.all.iter().map(|a| self.all.iter().map(|b| shared(a, b)).collect()).collect();
    }
}

/// Compares a literal of a few dozen bytes; a call to `memcmp` would cost more.
#[inline]
fn starts_with(buf: &[u8], at: usize, literal: &[u8]) -> bool {
    let Some(have) = buf.get(at..at + literal.len()) else { return false };
    let (have_words, have_rest) = have.as_chunks::<8>();
    let (want_words, want_rest) = literal.as_chunks::<8>();
    let differ = have_words.iter().zip(want_words).fold(0, |differ, (have, want)| {
        differ | (u64::from_le_bytes(*have) ^ u64::from_le_bytes(*want))
    });
    let differ_rest =
        have_rest.iter().zip(want_rest).fold(0, |differ, (have, want)| differ | (have ^ want));
    differ == 0 && differ_rest == 0
}
