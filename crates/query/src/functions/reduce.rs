//! `reduce(array, state, (state, x) -> state, state -> answer)`, which DataFusion has not.
//!
//! All arrays of a batch are gone through together, item by item: those that have ended leave.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array};
use arrow::compute::{cast, concat, filter, take, take_arrays};
use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, HigherOrderFunctionArgs, HigherOrderReturnFieldArgs, HigherOrderSignature,
    HigherOrderUDFImpl, LambdaParametersProgress, ValueOrLambda, Volatility,
};

use super::Stop;

/// How often the state may turn out to be of a wider type than was thought.
const WIDENINGS_MAX: usize = 4;

#[derive(Debug)]
pub(crate) struct Reduce {
    signature: HigherOrderSignature,
    stop: Stop,
}

impl PartialEq for Reduce {
    fn eq(&self, _: &Reduce) -> bool {
        true
    }
}

impl Eq for Reduce {}

impl std::hash::Hash for Reduce {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        "reduce".hash(state);
    }
}

impl Reduce {
    pub(crate) fn new(stop: &Stop) -> Reduce {
        let (value, lambda) = (ValueOrLambda::Value(()), ValueOrLambda::Lambda(()));
        let takes = vec![value.clone(), value, lambda.clone(), lambda];
        let signature = HigherOrderSignature::exact(takes, Volatility::Immutable);
        Reduce { signature, stop: stop.clone() }
    }
}

fn named(name: &str, data_type: DataType) -> FieldRef {
    Arc::new(Field::new(name, data_type, true))
}

impl HigherOrderUDFImpl for Reduce {
    fn name(&self) -> &str {
        "reduce"
    }

    fn signature(&self) -> &HigherOrderSignature {
        &self.signature
    }

    fn coerce_value_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let [list, state] = types else { return plan_err!("reduce takes an array and a state") };
        let list = match list {
            DataType::List(_) => list.clone(),
            DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                DataType::List(Arc::clone(item))
            }
            DataType::Null => DataType::new_list(DataType::Null, true),
            other => return plan_err!("reduce takes an array first, not {other}"),
        };
        Ok(vec![list, state.clone()])
    }

    fn lambda_parameters(
        &self,
        step: usize,
        fields: &[ValueOrLambda<FieldRef, Option<FieldRef>>],
    ) -> Result<LambdaParametersProgress> {
        let [ValueOrLambda::Value(list), ValueOrLambda::Value(state), merge, _] = fields else {
            return plan_err!("reduce takes an array, a state and two functions");
        };
        let DataType::List(item) = list.data_type() else {
            return plan_err!("reduce takes an array first, not {}", list.data_type());
        };
        let with = |state: &DataType| {
            let item = named("item", item.data_type().clone());
            let state = named("state", state.clone());
            (vec![Arc::clone(&state), item], vec![state])
        };
        // The state is what the first function answers, which may be wider than how it begins.
        match merge {
            ValueOrLambda::Lambda(Some(merged)) if !merged.data_type().is_null() => {
                let (merge, finish) = with(merged.data_type());
                Ok(match step < WIDENINGS_MAX && step > 0 {
                    true => LambdaParametersProgress::Partial(vec![Some(merge), None]),
                    false => LambdaParametersProgress::Complete(vec![merge, finish]),
                })
            }
            _ => {
                let (merge, _) = with(state.data_type());
                Ok(LambdaParametersProgress::Partial(vec![Some(merge), None]))
            }
        }
    }

    fn coerce_values_for_lambdas(
        &self,
        fields: &[ValueOrLambda<DataType, DataType>],
    ) -> Result<Option<Vec<DataType>>> {
        match fields {
            [ValueOrLambda::Value(list), _, ValueOrLambda::Lambda(state), _] => {
                Ok(Some(vec![list.clone(), state.clone()]))
            }
            _ => Ok(None),
        }
    }

    fn return_field_from_args(&self, args: HigherOrderReturnFieldArgs<'_>) -> Result<FieldRef> {
        match args.arg_fields {
            [_, _, _, ValueOrLambda::Lambda(finish)] => Ok(named("", finish.data_type().clone())),
            _ => plan_err!("reduce takes an array, a state and two functions"),
        }
    }

    fn invoke_with_args(&self, args: HigherOrderFunctionArgs) -> Result<ColumnarValue> {
        let [
            ValueOrLambda::Value(list),
            ValueOrLambda::Value(state),
            ValueOrLambda::Lambda(merge),
            ValueOrLambda::Lambda(finish),
        ] = args.args.as_slice()
        else {
            return plan_err!("reduce takes an array, a state and two functions");
        };
        let rows = args.number_rows;
        let lists = list.to_array(rows)?;
        let lists = lists.as_list::<i32>();
        let first = state.to_array(rows)?;
        let (values, offsets) = (lists.values(), lists.offsets());
        let length = |row: usize| match lists.is_valid(row) {
            true => (offsets[row + 1] - offsets[row]) as u32,
            false => 0,
        };
        // Rows under way with their states, and those that have ended.
        let mut under_way = UInt32Array::from_iter_values((0..rows).map(|row| row as u32));
        let mut states = first;
        let mut ended: Vec<(UInt32Array, ArrayRef)> = Vec::new();
        let mut at = 0_u32;
        loop {
            if self.stop.is_set() {
                return Err(DataFusionError::Execution("the query was stopped".to_owned()));
            }
            let goes_on: BooleanArray =
                under_way.values().iter().map(|row| Some(length(*row as usize) > at)).collect();
            if goes_on.true_count() < under_way.len() {
                let over = arrow::compute::not(&goes_on)?;
                let done = filter(&under_way, &over)?.as_primitive().clone();
                ended.push((done, filter(&states, &over)?));
                under_way = filter(&under_way, &goes_on)?.as_primitive().clone();
                states = filter(&states, &goes_on)?;
            }
            if under_way.is_empty() {
                break;
            }
            let places = under_way.values().iter();
            let places: UInt32Array =
                places.map(|row| Some(offsets[*row as usize] as u32 + at)).collect();
            let items = take(values, &places, None)?;
            let kind = states.data_type().clone();
            let merged = merge.evaluate(
                &[&|| Ok(Arc::clone(&states)), &|| Ok(Arc::clone(&items))],
                |captured| Ok(take_arrays(captured, &under_way, None)?),
            )?;
            states = cast(&merged.into_array(under_way.len())?, &kind)?;
            at += 1;
        }
        let order: Vec<&dyn Array> = ended.iter().map(|(rows, _)| rows as &dyn Array).collect();
        if order.is_empty() {
            let none = ScalarValue::try_new_null(args.return_type())?;
            return Ok(ColumnarValue::Array(none.to_array_of_size(rows)?));
        }
        let order = concat(&order)?;
        let mut place = vec![0_u32; rows];
        for (at, row) in
            order.as_primitive::<arrow::datatypes::UInt32Type>().values().iter().enumerate()
        {
            place[*row as usize] = at as u32;
        }
        let states: Vec<&dyn Array> = ended.iter().map(|(_, states)| &**states).collect();
        let states = take(&concat(&states)?, &UInt32Array::from(place), None)?;
        let answer = finish
            .evaluate(&[&|| Ok(Arc::clone(&states))], |captured| Ok(captured.to_vec()))?
            .into_array(rows)?;
        // Of no array nothing is made.
        let answer = match lists.nulls() {
            Some(nulls) => {
                arrow::compute::nullif(&answer, &BooleanArray::new(!nulls.inner(), None))?
            }
            None => answer,
        };
        Ok(ColumnarValue::Array(answer))
    }
}
