//! Values of a series, wherever they lie.
//!
//! Most series fit into memory, and some data sets do not. Who learns or forecasts needs slices
//! either way, so a series says `&[f32]` and does not say where from: its own vector, or a stretch
//! of a [`Block`] that somebody keeps, a file mapped into memory for instance.
//!
//! ```
//! use std::sync::Arc;
//! use forecast::Values;
//!
//! let own: Values = vec![1.0, 2.0, 3.0, 4.0].into();
//! let block = Arc::new(own.to_vec());
//! let shared = Values::shared(block, 1, 2);
//! assert_eq!(shared, own[1..3]);
//! assert_eq!(shared.first(1), [2.0]);
//! ```

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Values that many series have stretches of. They must not change while it lives.
pub trait Block: Send + Sync {
    /// All of them.
    fn values(&self) -> &[f32];
}

impl Block for Vec<f32> {
    fn values(&self) -> &[f32] {
        self
    }
}

/// A list of values that reads as a slice. Writing to values that are shared makes a copy first.
#[derive(Clone)]
pub struct Values(Place);

#[derive(Clone)]
enum Place {
    Own(Vec<f32>),
    Shared { block: Arc<dyn Block>, from: usize, len: usize },
}

impl Values {
    /// `len` values of `block` from `from` on, without copying them.
    ///
    /// # Panics
    ///
    /// If the block is shorter.
    pub fn shared(block: Arc<dyn Block>, from: usize, len: usize) -> Values {
        let there = block.values().len();
        let end = from.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= there),
            "{len} values from {from} of a block of {there}"
        );
        Values(Place::Shared { block, from, len })
    }

    /// The first `len`, or all if there are fewer. Shared values stay shared.
    pub fn first(&self, len: usize) -> Values {
        match &self.0 {
            Place::Own(values) => values[..len.min(values.len())].to_vec().into(),
            Place::Shared { block, from, len: all } => {
                Values(Place::Shared { block: block.clone(), from: *from, len: len.min(*all) })
            }
        }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[f32] {
        self
    }

    /// Shortens to `len`.
    pub fn truncate(&mut self, len: usize) {
        match &mut self.0 {
            Place::Own(values) => values.truncate(len),
            Place::Shared { len: all, .. } => *all = len.min(*all),
        }
    }

    /// Adds one at the end.
    pub fn push(&mut self, value: f32) {
        self.own().push(value);
    }

    /// The values as a vector of its own.
    fn own(&mut self) -> &mut Vec<f32> {
        if let Place::Shared { .. } = self.0 {
            self.0 = Place::Own(self.to_vec());
        }
        match &mut self.0 {
            Place::Own(values) => values,
            Place::Shared { .. } => unreachable!("they have just been copied"),
        }
    }
}

impl Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Place::Own(values) => values,
            Place::Shared { block, from, len } => &block.values()[*from..from + len],
        }
    }
}

impl DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        self.own()
    }
}

impl Default for Values {
    fn default() -> Values {
        Values(Place::Own(Vec::new()))
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Values {
        Values(Place::Own(values))
    }
}

impl FromIterator<f32> for Values {
    fn from_iter<I: IntoIterator<Item = f32>>(values: I) -> Values {
        Values(Place::Own(values.into_iter().collect()))
    }
}

impl Extend<f32> for Values {
    fn extend<I: IntoIterator<Item = f32>>(&mut self, values: I) {
        self.own().extend(values);
    }
}

impl<'a> IntoIterator for &'a Values {
    type Item = &'a f32;
    type IntoIter = std::slice::Iter<'a, f32>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// As slices are, so a missing value (NaN) equals nothing.
impl<T: AsRef<[f32]> + ?Sized> PartialEq<T> for Values {
    fn eq(&self, other: &T) -> bool {
        self.as_slice() == other.as_ref()
    }
}

impl AsRef<[f32]> for Values {
    fn as_ref(&self) -> &[f32] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_values_are_copied_when_they_are_written_to() {
        let block: Arc<dyn Block> = Arc::new(vec![1.0, 2.0, 3.0, 4.0, 5.0]);
        let mut values = Values::shared(block.clone(), 1, 3);
        let mut short = values.first(2);
        short.truncate(1);
        assert_eq!(short, [2.0]);
        assert_eq!(values.first(9), [2.0, 3.0, 4.0]);
        values[0] = 9.0;
        values.push(7.0);
        assert_eq!(values, [9.0, 3.0, 4.0, 7.0]);
        assert_eq!(block.values(), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(format!("{short:?}"), "[2.0]");
    }

    #[test]
    #[should_panic(expected = "2 values from 4 of a block of 5")]
    fn a_stretch_past_the_end_is_a_mistake() {
        Values::shared(Arc::new(vec![0.0; 5]), 4, 2);
    }
}
