//! The order of rows by some columns.
//!
//! Each key becomes a whole number that sorts as it does, and the numbers of a row are packed
//! side by side into one, the row's place last: sorting those is several times as quick as
//! comparing rows column by column, and rows that agree keep their order. What is common to
//! all rows (the least number, the first letters) takes no room. Keys that do not fit into 128
//! bits, and types that are rarely sorted by, go the long way.

use std::collections::HashMap;
use std::ops::{BitAnd, BitOr, Shl};

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray};
use arrow::compute::{SortOptions, concat};
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::row::{RowConverter, SortField};
use base::{Error, Result};

/// A column to sort by, in the pieces that its rows came in.
pub(super) struct Key {
    pub(super) pieces: Vec<ArrayRef>,
    pub(super) options: SortOptions,
}

/// The places of all rows in the order of `keys`.
pub(super) fn order(keys: &[Key], rows: usize) -> Result<Vec<u32>> {
    let last = u32::try_from(rows.saturating_sub(1))
        .map_err(|_too_many| Error::internal("more than 2^32 rows to sort at once"))?;
    if last == 0 {
        return Ok((0..rows as u32).collect());
    }
    let row_bits = u32::BITS - last.leading_zeros();
    let parts: Option<Vec<Part>> = keys.iter().map(Part::of).collect();
    // One key's number and the bit of its nulls fit 64 bits.
    let parts = parts.filter(|parts| parts.iter().all(|part| part.bits() <= 64));
    let Some(parts) = parts else { return by_rows(keys) };
    let bits = parts.iter().map(Part::bits).sum::<u32>() + row_bits;
    match bits {
        0..=64 => Ok(by_number::<u64>(&parts, rows, row_bits)),
        65..=128 => Ok(by_number::<u128>(&parts, rows, row_bits)),
        _ => by_rows(keys),
    }
}

fn by_number<N>(parts: &[Part], rows: usize, row_bits: u32) -> Vec<u32>
where
    N: Copy + Ord + From<u64> + Shl<u32, Output = N> + BitOr<Output = N>,
    N: BitAnd<Output = N> + TryInto<u32>,
{
    let mut numbers: Vec<N> = (0..rows)
        .map(|row| {
            let keys = parts.iter().fold(N::from(0), |packed, part| {
                (packed << part.bits()) | N::from(part.number(row))
            });
            (keys << row_bits) | N::from(row as u64)
        })
        .collect();
    numbers.sort_unstable();
    let place = N::from((1_u64 << row_bits) - 1);
    // The bits of a place are fewer than 32.
    numbers.into_iter().map(|number| (number & place).try_into().unwrap_or(0)).collect()
}

/// Compares whole rows.
fn by_rows(keys: &[Key]) -> Result<Vec<u32>> {
    let fields = keys.iter().map(|key| {
        let data_type =
            key.pieces.first().map_or(DataType::Null, |piece| piece.data_type().clone());
        SortField::new_with_options(data_type, key.options)
    });
    let failed = |cause| Error::unsupported(format!("rows cannot be sorted: {cause}"));
    let converter = RowConverter::new(fields.collect()).map_err(failed)?;
    let columns = keys.iter().map(|key| {
        let pieces: Vec<&dyn Array> = key.pieces.iter().map(AsRef::as_ref).collect();
        concat(&pieces)
    });
    let columns = columns.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let rows = converter.convert_columns(&columns).map_err(failed)?;
    let mut places: Vec<u32> = (0..rows.num_rows() as u32).collect();
    places.sort_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
    Ok(places)
}

/// A key as numbers, each below two to the power of `width`.
struct Part {
    values: Vec<u64>,
    /// Which are null, if any.
    nulls: Option<Vec<bool>>,
    width: u32,
    nulls_first: bool,
}

impl Part {
    /// `None` for a type that has no numbers here.
    fn of(key: &Key) -> Option<Part> {
        let mut values = numbers(&key.pieces)?;
        let nulls = key.pieces.iter().any(|piece| piece.null_count() > 0).then(|| {
            let of = |piece: &ArrayRef| (0..piece.len()).map(|row| piece.is_null(row)).collect();
            key.pieces.iter().flat_map(of as fn(&ArrayRef) -> Vec<bool>).collect::<Vec<bool>>()
        });
        let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls[row]);
        let known = || values.iter().enumerate().filter(|(row, _)| !is_null(*row)).map(|(_, v)| *v);
        let (least, most) = (known().min().unwrap_or(0), known().max().unwrap_or(0));
        for (row, value) in values.iter_mut().enumerate() {
            *value = match (is_null(row), key.options.descending) {
                (true, _) => 0,
                (false, true) => most - *value,
                (false, false) => *value - least,
            };
        }
        let width = u64::BITS - (most - least).leading_zeros();
        Some(Part { values, nulls, width, nulls_first: key.options.nulls_first })
    }

    fn bits(&self) -> u32 {
        self.width + u32::from(self.nulls.is_some())
    }

    #[inline]
    fn number(&self, row: usize) -> u64 {
        match &self.nulls {
            None => self.values[row],
            Some(nulls) => {
                let behind = u64::from(nulls[row] != self.nulls_first);
                (behind << self.width) | self.values[row]
            }
        }
    }
}

/// Numbers in the order of the values; those of nulls mean nothing.
fn numbers(pieces: &[ArrayRef]) -> Option<Vec<u64>> {
    const SIGN: u64 = 1 << 63;
    let signed = |value: i64| value as u64 ^ SIGN;
    // The order of `total_cmp`, which Arrow's kernels have.
    let double = |value: f64| {
        let bits = value.to_bits() as i64;
        (bits ^ (((bits >> 63) as u64) >> 1) as i64) as u64 ^ SIGN
    };
    let single = |value: f32| {
        let bits = value.to_bits() as i32;
        i64::from(bits ^ (((bits >> 31) as u32) >> 1) as i32) as u64 ^ SIGN
    };
    Some(match pieces.first()?.data_type() {
        DataType::Int8 => of::<Int8Type>(pieces, |v| signed(v.into())),
        DataType::Int16 => of::<Int16Type>(pieces, |v| signed(v.into())),
        DataType::Int32 => of::<Int32Type>(pieces, |v| signed(v.into())),
        DataType::Int64 => of::<Int64Type>(pieces, signed),
        DataType::UInt8 => of::<UInt8Type>(pieces, u64::from),
        DataType::UInt16 => of::<UInt16Type>(pieces, u64::from),
        DataType::UInt32 => of::<UInt32Type>(pieces, u64::from),
        DataType::UInt64 => of::<UInt64Type>(pieces, |v| v),
        DataType::Float32 => of::<Float32Type>(pieces, single),
        DataType::Float64 => of::<Float64Type>(pieces, double),
        DataType::Date32 => of::<Date32Type>(pieces, |v| signed(v.into())),
        DataType::Timestamp(TimeUnit::Second, _) => of::<TimestampSecondType>(pieces, signed),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            of::<TimestampMillisecondType>(pieces, signed)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            of::<TimestampMicrosecondType>(pieces, signed)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            of::<TimestampNanosecondType>(pieces, signed)
        }
        DataType::Boolean => {
            let of = |piece: &ArrayRef| {
                piece.as_boolean().values().iter().map(u64::from).collect::<Vec<_>>()
            };
            pieces.iter().flat_map(of).collect()
        }
        DataType::Utf8 => texts(pieces),
        _ => return None,
    })
}

fn of<T: ArrowPrimitiveType>(pieces: &[ArrayRef], number: impl Fn(T::Native) -> u64) -> Vec<u64> {
    let mut numbers = Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum());
    for piece in pieces {
        numbers.extend(piece.as_primitive::<T>().values().iter().map(|value| number(*value)));
    }
    numbers
}

fn texts(pieces: &[ArrayRef]) -> Vec<u64> {
    let all = || {
        pieces.iter().flat_map(|piece| {
            let texts = piece.as_string::<i32>();
            // Null has the text that lies there, which is as good as any.
            (0..texts.len()).map(move |row| texts.value(row).as_bytes())
        })
    };
    let first = all().next().unwrap_or_default();
    let (mut common, mut shortest, mut longest) = (first.len(), first.len(), first.len());
    for text in all() {
        shortest = shortest.min(text.len());
        longest = longest.max(text.len());
        if text.get(..common) != Some(&first[..common]) {
            common = first.iter().zip(text).take_while(|(a, b)| a == b).count().min(common);
        }
    }
    let left = longest - common;
    let letters = |text: &[u8]| {
        let mut word = [0; 8];
        let rest = &text[common..];
        word[8 - left..8 - left + rest.len()].copy_from_slice(rest);
        u64::from_be_bytes(word)
    };
    if left <= 8 && shortest == longest {
        all().map(letters).collect()
    } else if left <= 7 {
        // Of texts that differ in zeros behind alone, the shorter comes first.
        all().map(|text| (letters(text) << 8) | (text.len() - common) as u64).collect()
    } else {
        ranks(all())
    }
}

/// The places of texts among all that are different.
fn ranks<'a>(texts: impl Iterator<Item = &'a [u8]>) -> Vec<u64> {
    let mut known: HashMap<&[u8], usize> = HashMap::new();
    let mut different: Vec<&[u8]> = Vec::new();
    let seen: Vec<usize> = texts
        .map(|text| {
            *known.entry(text).or_insert_with(|| {
                different.push(text);
                different.len() - 1
            })
        })
        .collect();
    let mut sorted: Vec<usize> = (0..different.len()).collect();
    sorted.sort_unstable_by_key(|&at| different[at]);
    let mut rank = vec![0; sorted.len()];
    for (place, at) in sorted.into_iter().enumerate() {
        rank[at] = place as u64;
    }
    seen.into_iter().map(|at| rank[at]).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        BooleanArray, Float64Array, Int16Array, Int64Array, StringArray, TimestampMillisecondArray,
    };
    use proptest::prelude::*;

    use super::*;

    fn key(arrays: Vec<ArrayRef>, descending: bool, nulls_first: bool) -> Key {
        Key { pieces: arrays, options: SortOptions { descending, nulls_first } }
    }

    fn check(keys: &[Key]) {
        let rows = keys[0].pieces.iter().map(|piece| piece.len()).sum();
        assert_eq!(order(keys, rows).unwrap(), by_rows(keys).unwrap());
    }

    /// An array of a kind, cut into two pieces.
    fn column(kind: u8, seeds: &[Option<i64>], cut: usize) -> Vec<ArrayRef> {
        let text = |seed: i64| match kind {
            0 => format!("sensor-{:04}", seed.rem_euclid(500)),
            1 => {
                "a\0".repeat(seed.rem_euclid(4) as usize) + &"é".repeat(seed.rem_euclid(2) as usize)
            }
            _ => format!("{seed:x}-{:0>30}", seed.rem_euclid(3)),
        };
        let array = |seeds: &[Option<i64>]| -> ArrayRef {
            let seeds = seeds.iter().copied();
            match kind {
                0..=2 => Arc::new(seeds.map(|s| s.map(text)).collect::<StringArray>()),
                3 => Arc::new(seeds.map(|s| s.map(|s| s as i16)).collect::<Int16Array>()),
                4 => Arc::new(seeds.collect::<Int64Array>()),
                5 => Arc::new(seeds.collect::<TimestampMillisecondArray>()),
                6 => {
                    let real = |s: i64| f64::from_bits(s as u64);
                    Arc::new(seeds.map(|s| s.map(real)).collect::<Float64Array>())
                }
                _ => Arc::new(seeds.map(|s| s.map(|s| s % 2 == 0)).collect::<BooleanArray>()),
            }
        };
        let cut = cut.min(seeds.len());
        vec![array(&seeds[..cut]), array(&seeds[cut..])]
    }

    proptest! {
        #[test]
        fn numbers_sort_as_rows_do(
            seeds in prop::collection::vec(
                (prop::option::weighted(0.9, prop_oneof![any::<i64>(), -3..3_i64]), any::<i64>()),
                1..80,
            ),
            kinds in prop::collection::vec((0..8_u8, any::<bool>(), any::<bool>()), 1..4),
            cut in 0..80_usize,
        ) {
            let keys: Vec<Key> = kinds
                .iter()
                .enumerate()
                .map(|(at, &(kind, descending, nulls_first))| {
                    let seeds: Vec<Option<i64>> = seeds
                        .iter()
                        .map(|(seed, other)| match at {
                            0 => *seed,
                            _ => Some(other >> (8 * at)),
                        })
                        .collect();
                    key(column(kind, &seeds, cut), descending, nulls_first)
                })
                .collect();
            check(&keys);
        }
    }

    #[test]
    fn extremes_and_ties_keep_their_order() {
        let whole: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN, 0, i64::MAX]));
        let real = Arc::new(Float64Array::from(vec![f64::NAN, -0.0, 0.0, f64::NEG_INFINITY]));
        check(&[key(vec![whole.clone()], false, true)]);
        check(&[key(vec![whole.clone()], true, false), key(vec![real], true, true)]);
        let same: ArrayRef = Arc::new(StringArray::from(vec!["x"; 5]));
        assert_eq!(order(&[key(vec![same], true, true)], 5).unwrap(), [0, 1, 2, 3, 4]);
        let none: ArrayRef = Arc::new(StringArray::from(vec![None::<&str>; 3]));
        assert_eq!(order(&[key(vec![none], false, true)], 3).unwrap(), [0, 1, 2]);
        let with_null: ArrayRef =
            Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(i64::MIN)]));
        check(&[key(vec![with_null], false, false)]);
    }
}
