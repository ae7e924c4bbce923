//! The functions, as one table: a name, how many arguments, and what it does.
//!
//! The parser looks a call up here and refuses what is not in the table, so a statement that
//! was accepted never meets an unknown function. Each file beneath holds one kind.

mod message;
mod number;
mod structure;
mod text;

pub use message::trace_id_of;
pub(crate) use number::remainder;

use std::borrow::Cow;

use crate::sql::ast::Prepared;
use crate::sql::eval::{Env, Evaluation};
use crate::value::{Number, Value};

/// One function.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: &'static str,
    pub(crate) args_min: usize,
    pub(crate) args_max: usize,
    pub(crate) run: fn(&Call<'_>) -> Evaluation<Value>,
    pub(crate) prepare: Prepare,
}

/// Which constant argument the parser can work out ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prepare {
    Nothing,
    /// The second argument is a regular expression.
    Regex,
    /// The argument at this index is a time pattern, the third a time zone.
    Time(usize),
    /// The second argument must be 'base64'.
    Scheme,
}

/// A call: evaluated arguments and what they may look at.
#[derive(Debug)]
pub(crate) struct Call<'c> {
    pub(crate) env: &'c Env<'c>,
    pub(crate) args: &'c [Cow<'c, Value>],
    pub(crate) prepared: &'c Prepared,
}

impl Call<'_> {
    /// The argument at `index`, Undefined if it is not given.
    fn arg(&self, index: usize) -> &Value {
        self.args.get(index).map_or(&Value::Undefined, |value| value.as_ref())
    }

    fn number(&self, index: usize) -> Option<Number> {
        self.arg(index).to_number()
    }

    fn text(&self, index: usize) -> Option<Cow<'_, str>> {
        self.arg(index).to_text()
    }
}

/// Why a name is not in the table.
#[derive(Debug)]
pub(crate) enum Missing {
    /// Nobody has such a function.
    Unknown(String),
    /// IoT SQL has it, Forebay has not: why, and what to do instead.
    Unsupported(&'static str),
}

/// Finds a function by its name, in any case.
pub(crate) fn find(name: &str) -> Result<&'static Function, Missing> {
    if let Some(found) = FUNCTIONS.iter().find(|function| function.name.eq_ignore_ascii_case(name))
    {
        return Ok(found);
    }
    if let Some((_, why)) = UNSUPPORTED.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)) {
        return Err(Missing::Unsupported(why));
    }
    let lower = name.to_lowercase();
    let nearest = FUNCTIONS
        .iter()
        .map(|function| (distance(&function.name.to_lowercase(), &lower), function.name))
        .min();
    Err(Missing::Unknown(match nearest {
        Some((edits, near)) if edits <= SUGGESTED_EDITS_MAX && edits < near.len() => {
            format!("unknown function {name:?}; did you mean {near}()?")
        }
        _ => format!("unknown function {name:?}"),
    }))
}

/// The names of all functions.
pub fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|function| function.name)
}

/// Further than this a suggestion is a guess.
const SUGGESTED_EDITS_MAX: usize = 2;

/// Insertions, deletions and replacements between two names. Long names are not compared.
fn distance(a: &str, b: &str) -> usize {
    if b.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replace = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

impl Function {
    /// How many arguments, for a message.
    pub(crate) fn arity(&self) -> String {
        match (self.args_min, self.args_max) {
            (0, 0) => "no arguments".to_owned(),
            (1, 1) => "1 argument".to_owned(),
            (min, max) if min == max => format!("{min} arguments"),
            (min, max) => format!("{min} to {max} arguments"),
        }
    }
}

const fn function(
    name: &'static str,
    args_min: usize,
    args_max: usize,
    run: fn(&Call<'_>) -> Evaluation<Value>,
) -> Function {
    Function { name, args_min, args_max, run, prepare: Prepare::Nothing }
}

const fn prepared(prepare: Prepare, function: Function) -> Function {
    Function {
        name: function.name,
        args_min: function.args_min,
        args_max: function.args_max,
        run: function.run,
        prepare,
    }
}

/// Most arguments of `concat`.
const CONCAT_ARGS_MAX: usize = 1_000;

static FUNCTIONS: [Function; 75] = [
    function("abs", 1, 1, number::abs),
    function("accountid", 0, 0, message::account_id),
    function("acos", 1, 1, number::acos),
    function("asin", 1, 1, number::asin),
    function("atan", 1, 1, number::atan),
    function("atan2", 2, 2, number::atan2),
    function("bitand", 2, 2, number::bit_and),
    function("bitnot", 1, 1, number::bit_not),
    function("bitor", 2, 2, number::bit_or),
    function("bitxor", 2, 2, number::bit_xor),
    function("ceil", 1, 1, number::ceil),
    function("chr", 1, 1, text::chr),
    function("clientid", 0, 0, message::client_id),
    function("concat", 0, CONCAT_ARGS_MAX, structure::concat),
    function("cos", 1, 1, number::cos),
    function("cosh", 1, 1, number::cosh),
    prepared(Prepare::Scheme, function("decode", 2, 2, structure::decode)),
    prepared(Prepare::Scheme, function("encode", 2, 2, structure::encode)),
    function("endswith", 2, 2, text::ends_with),
    function("exp", 1, 1, number::exp),
    function("floor", 1, 1, number::floor),
    function("get", 2, 2, structure::get),
    function("get_mqtt_property", 1, 1, message::get_mqtt_property),
    function("get_or_default", 1, 2, structure::get_or_default),
    function("get_user_properties", 0, 1, message::get_user_properties),
    function("indexof", 2, 2, text::index_of),
    function("isNull", 1, 1, structure::is_null),
    function("isUndefined", 1, 1, structure::is_undefined),
    function("length", 1, 1, text::length),
    function("ln", 1, 1, number::ln),
    function("log", 1, 1, number::log),
    function("lower", 1, 1, text::lower),
    function("lpad", 2, 2, text::lpad),
    function("ltrim", 1, 1, text::ltrim),
    function("md2", 1, 1, text::md2),
    function("md5", 1, 1, text::md5),
    function("mod", 2, 2, number::modulo),
    function("nanvl", 2, 2, number::nanvl),
    function("newuuid", 0, 0, message::new_uuid),
    function("numbytes", 1, 1, text::num_bytes),
    prepared(Prepare::Time(0), function("parse_time", 2, 3, structure::parse_time)),
    function("power", 2, 2, number::power),
    function("principal", 0, 0, message::principal),
    function("rand", 0, 0, message::rand),
    prepared(Prepare::Regex, function("regexp_matches", 2, 2, text::regexp_matches)),
    prepared(Prepare::Regex, function("regexp_replace", 3, 3, text::regexp_replace)),
    prepared(Prepare::Regex, function("regexp_substr", 2, 2, text::regexp_substr)),
    function("remainder", 2, 2, number::modulo),
    function("replace", 3, 3, text::replace),
    function("round", 1, 1, number::round),
    function("rpad", 2, 2, text::rpad),
    function("rtrim", 1, 1, text::rtrim),
    function("sha1", 1, 1, text::sha1),
    function("sha224", 1, 1, text::sha224),
    function("sha256", 1, 1, text::sha256),
    function("sha384", 1, 1, text::sha384),
    function("sha512", 1, 1, text::sha512),
    function("sign", 1, 1, number::sign),
    function("sin", 1, 1, number::sin),
    function("sinh", 1, 1, number::sinh),
    function("sql_version", 0, 0, message::sql_version),
    function("sourceip", 0, 0, message::source_ip),
    function("sqrt", 1, 1, number::sqrt),
    function("startswith", 2, 2, text::starts_with),
    function("substring", 2, 3, text::substring),
    function("tan", 1, 1, number::tan),
    function("tanh", 1, 1, number::tanh),
    prepared(Prepare::Time(1), function("time_to_epoch", 2, 2, structure::time_to_epoch)),
    function("timestamp", 0, 0, message::timestamp),
    function("topic", 0, 1, message::topic),
    function("traceid", 0, 0, message::trace_id),
    function("transform", 3, 3, structure::transform),
    function("trim", 1, 1, text::trim),
    function("trunc", 2, 2, number::trunc),
    function("upper", 1, 1, text::upper),
];

/// Functions of IoT SQL that are refused by name, and why. What a rule makes of a message has to be
/// the same whenever the log is read again, so nothing here may ask for what is not in the log.
const UNSUPPORTED: [(&str, &str); 6] = [
    (
        "aws_lambda",
        "is not supported: there is no Lambda on this machine; let an HTTP action call your function",
    ),
    (
        "get_dynamodb",
        "is not supported: there is no DynamoDB on this machine; join the table in a job or a query",
    ),
    (
        "get_registry_data",
        "is not supported: the registry changes, and a message that is read again from the log would \
         give another answer; clientid() and topic() tell the device",
    ),
    (
        "get_secret",
        "is not supported: there is no Secrets Manager on this machine, and secrets do not belong \
         in messages; an HTTP destination keeps its own headers",
    ),
    (
        "get_thing_shadow",
        "is not supported: the shadow changes, and a message that is read again from the log would \
         give another answer; make a rule on $aws/things/+/shadow/update/documents instead",
    ),
    (
        "machinelearning_predict",
        "is not supported: Amazon Machine Learning is closed; train a job and call its endpoint",
    ),
];
