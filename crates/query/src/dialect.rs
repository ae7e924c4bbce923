//! Athena's manners in DataFusion's words: a statement is rewritten before it is planned.
//!
//! | Athena says | which becomes |
//! |---|---|
//! | a function that is another's by another name, or an expression | that ([`MEANINGS`]) |
//! | `max_by(x, y)` and other aggregates | an ordered or filtered one; its own FILTER and OVER stay |
//! | `x AT TIME ZONE z`, `EXTRACT(f FROM x)` | functions of ours |
//! | `try(x)` | `x` with what may fail in it replaced by what answers null |
//! | `CAST(json_extract(...) AS varchar)` | the JSON's value, not its text |
//! | `UNNEST(a) WITH ORDINALITY` | a second array that counts |
//! | `FETCH FIRST n ROWS ONLY` | `LIMIT n` |
//! | `array(varchar)` as a type | `array<varchar>` ([`spelled`]) |
//! | `a OR x NOT IN (SELECT ...)` | questions that know of nulls ([`within`]) |
//! | `x IS DISTINCT FROM y AND z` | `(x IS DISTINCT FROM y) AND z`, which the parser takes otherwise |
//! | `SELECT *, "$path" FROM t` | `SELECT * EXCEPT ("$path"), "$path"` of a table that has it ([`hidden`]) |
//! | `FILTER (WHERE c)` | `FILTER (WHERE c IS TRUE)`, or a CASE in a window's argument |
//!
//! What cannot be said is refused by name.

pub(crate) mod hidden;
mod within;

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use base::{Error, Result};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{
    ArrayElemTypeDef, BinaryOperator, CaseWhen, CastKind, DataType, DateTimeField, Expr, Fetch,
    Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments, Ident,
    LambdaFunction, LambdaFunctionParameter, LambdaSyntax, LimitClause, ObjectName, ObjectNamePart,
    OneOrManyWithParens, Query, Select, SelectItem, SetExpr, Statement as Ast, TableFactor,
    UnaryOperator, Value, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::functions::{LAST, ORDINALS, ROUNDED, TRY, has_twin};

/// What functions mean, by their name and how many arguments they are given: `$1` is the first.
const MEANINGS: &[(&str, usize, &str)] = &[
    ("if", 2, "CASE WHEN $1 THEN $2 END"),
    ("if", 3, "CASE WHEN $1 THEN $2 ELSE $3 END"),
    ("concat", 2, "$1 || $2"),
    ("concat", 3, "$1 || $2 || $3"),
    ("concat", 4, "$1 || $2 || $3 || $4"),
    ("concat", 5, "$1 || $2 || $3 || $4 || $5"),
    ("concat", 6, "$1 || $2 || $3 || $4 || $5 || $6"),
    // Null if any is null, which DataFusion passes over.
    ("greatest", 2, "CASE WHEN $1 IS NOT NULL AND $2 IS NOT NULL THEN greatest($1, $2) END"),
    ("least", 2, "CASE WHEN $1 IS NOT NULL AND $2 IS NOT NULL THEN least($1, $2) END"),
    (
        "greatest",
        3,
        "CASE WHEN $1 IS NOT NULL AND $2 IS NOT NULL AND $3 IS NOT NULL \
         THEN greatest($1, $2, $3) END",
    ),
    (
        "least",
        3,
        "CASE WHEN $1 IS NOT NULL AND $2 IS NOT NULL AND $3 IS NOT NULL \
         THEN least($1, $2, $3) END",
    ),
    ("index", 2, "strpos($1, $2)"),
    ("levenshtein_distance", 2, "levenshtein($1, $2)"),
    ("codepoint", 1, "ascii($1)"),
    ("date", 1, "CAST($1 AS DATE)"),
    ("localtimestamp", 0, "CAST(now() AS TIMESTAMP(3))"),
    ("current_timezone", 0, "'UTC'"),
    ("ceiling", 1, "ceil($1)"),
    ("mod", 2, "$1 % $2"),
    ("sign", 1, "signum($1)"),
    ("truncate", 1, "trunc($1)"),
    ("truncate", 2, "trunc($1, $2)"),
    ("e", 0, "exp(1.0)"),
    ("infinity", 0, "CAST('inf' AS DOUBLE)"),
    ("nan", 0, "CAST('nan' AS DOUBLE)"),
    ("is_nan", 1, "isnan($1)"),
    ("is_finite", 1, "abs($1) < CAST('inf' AS DOUBLE)"),
    ("is_infinite", 1, "abs($1) = CAST('inf' AS DOUBLE)"),
    ("rand", 0, "random()"),
    ("bitwise_and", 2, "$1 & $2"),
    ("bitwise_or", 2, "$1 | $2"),
    ("contains", 2, "array_has($1, $2)"),
    ("array_remove", 2, "array_remove_all($1, $2)"),
    ("arrays_overlap", 2, "array_has_any($1, $2)"),
    ("slice", 3, "array_slice($1, $2, $2 + $3 - 1)"),
    ("transform", 2, "array_transform($1, $2)"),
    ("filter", 2, "array_filter($1, $2)"),
    ("any_match", 2, "array_any_match($1, $2)"),
    ("none_match", 2, "NOT array_any_match($1, $2)"),
    // Of the lambda's contrary, see `contrary`.
    ("all_match", 2, "NOT array_any_match($1, $2)"),
    // Aggregates.
    ("arbitrary", 1, "first_value($1) FILTER (WHERE $1 IS NOT NULL)"),
    ("any_value", 1, "first_value($1) FILTER (WHERE $1 IS NOT NULL)"),
    ("max_by", 2, "first_value($1 ORDER BY $2 DESC) FILTER (WHERE $2 IS NOT NULL)"),
    ("min_by", 2, "first_value($1 ORDER BY $2 ASC) FILTER (WHERE $2 IS NOT NULL)"),
    ("count_if", 1, "count(1) FILTER (WHERE $1)"),
    ("every", 1, "bool_and($1)"),
    ("approx_percentile", 2, "approx_percentile_cont($1, $2)"),
    ("approx_percentile", 3, "approx_percentile_cont_with_weight($1, $2, $3)"),
    ("bitwise_and_agg", 1, "bit_and($1)"),
    ("bitwise_or_agg", 1, "bit_or($1)"),
    ("stddev_samp", 1, "stddev($1)"),
    ("variance", 1, "var_samp($1)"),
    ("geometric_mean", 1, "exp(avg(ln($1)))"),
];

/// What Athena has and we do not, where the planner's word would not help.
const ABSENT: &[(&str, &str)] = &[
    ("approx_most_frequent", "use count(*) with GROUP BY, ORDER BY and LIMIT"),
    ("repeat", "it makes gigabytes of a few letters; use rpad"),
    ("json_object", "use format or concat"),
    ("json_array", "use format or concat"),
];

/// Functions that answer JSON: a cast of theirs is a cast of the JSON's value.
const ANSWER_JSON: &[&str] = &["json_extract", "json_parse", "json_array_get", "json_query"];

/// Aggregates to which a row whose first argument is null is as good as none.
const PASS_OVER_NULLS: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "max",
    "mean",
    "median",
    "min",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "string_agg",
    "sum",
    "var",
    "var_pop",
    "var_samp",
];

/// Says a statement as DataFusion understands it.
pub(crate) fn rewrite(statement: &mut Parsed) -> Result<()> {
    let ast = match statement {
        Parsed::Statement(ast) => ast,
        Parsed::Explain(explain) => return rewrite(&mut explain.statement),
        _ => return Ok(()),
    };
    let ast: &mut Ast = ast;
    match VisitMut::visit(ast, &mut Rewrite { grown: 0, lambdas: 0 }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

struct Rewrite {
    /// Expressions that meanings put in more than once, with all that is in them.
    grown: usize,
    /// Parameters of lambdas that got names of their own.
    lambdas: usize,
}

/// How many expressions the meanings of a statement may add: `greatest` within `greatest`
/// doubles what is in it each time.
const GROWN_MAX: usize = 20_000;

impl VisitorMut for Rewrite {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        let Some(Fetch { with_ties, percent, quantity }) = query.fetch.take() else {
            return ControlFlow::Continue(());
        };
        if with_ties || percent {
            return refuse("FETCH with TIES or PERCENT", "use rank() in a sub-query");
        }
        let one = || Expr::value(Value::Number("1".into(), false));
        let most = Some(quantity.unwrap_or_else(one));
        match &mut query.limit_clause {
            Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = most,
            none @ None => {
                let (offset, limit_by) = (None, Vec::new());
                *none = Some(LimitClause::LimitOffset { limit: most, offset, limit_by });
            }
            Some(_) => return refuse("FETCH beside LIMIT", "give one of them"),
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        let added = within::conditions(select);
        if let Err(error) = added.and_then(|added| self.grow(added, "IN (SELECT ...)")) {
            return ControlFlow::Break(error);
        }
        name_columns(select);
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        // Before what is in it: then casts and calls are still as they were written.
        if let Expr::Function(function) = expr
            && name_of(function).as_deref() == Some("try")
            && let Some([tried]) = unnamed(function).as_deref()
        {
            let mut tried = tried.clone();
            VisitMut::visit(&mut tried, &mut Try)?;
            *expr = Expr::Nested(Box::new(tried));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match self.said_otherwise(expr) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(other)) => {
                *expr = other;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        if let TableFactor::UNNEST { array_exprs, with_ordinality, .. } = factor
            && *with_ordinality
            && let Some(first) = array_exprs.first()
        {
            *with_ordinality = false;
            array_exprs.push(call(ORDINALS, [first.clone()]));
        }
        ControlFlow::Continue(())
    }
}

/// Names columns that have none as they are written, before they are written otherwise; two
/// that are written alike are told apart.
fn name_columns(select: &mut Select) {
    let mut names = BTreeSet::new();
    for (index, item) in select.projection.iter_mut().enumerate() {
        let SelectItem::UnnamedExpr(expr) = item else { continue };
        if is_named(expr) {
            continue;
        }
        let mut name = expr.to_string();
        if !names.insert(name.clone()) {
            name = format!("_col{index}");
        }
        let alias = Ident::with_quote('"', name);
        let expr = std::mem::replace(expr, Expr::value(Value::Null));
        *item = SelectItem::ExprWithAlias { expr, alias };
    }
}

fn is_named(expr: &Expr) -> bool {
    // A struct's field is named as the field.
    matches!(
        expr,
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::CompoundFieldAccess { .. }
    )
}

/// Which columns of an answer the statement does not name, counted from the front up to a `*`,
/// and from the end behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unnamed {
    front: Vec<usize>,
    back: Vec<usize>,
}

impl Unnamed {
    /// Of a statement as it was written.
    pub(crate) fn of(statement: &Parsed) -> Unnamed {
        let mut unnamed = Unnamed::default();
        let Parsed::Statement(ast) = statement else { return unnamed };
        let Ast::Query(query) = &**ast else { return unnamed };
        let mut body = &*query.body;
        let select = loop {
            body = match body {
                SetExpr::Select(select) => break select,
                SetExpr::SetOperation { left, .. } => left,
                SetExpr::Query(query) => &query.body,
                _ => return unnamed,
            };
        };
        let items = &select.projection;
        let is_star = |item: &SelectItem| {
            matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(_, _))
        };
        let first_star = items.iter().position(is_star).unwrap_or(items.len());
        let last_star = items.iter().rposition(is_star).unwrap_or(0);
        for (index, item) in items.iter().enumerate() {
            let SelectItem::UnnamedExpr(expr) = item else { continue };
            if is_named(expr) {
                continue;
            }
            if index < first_star {
                unnamed.front.push(index);
            } else if index > last_star {
                unnamed.back.push(items.len() - index);
            }
        }
        unnamed
    }

    /// Whether the column at `index` of `count` is one of them.
    pub(crate) fn has(&self, index: usize, count: usize) -> bool {
        self.front.contains(&index) || self.back.contains(&(count - index))
    }
}

fn refuse(what: &str, instead: &str) -> ControlFlow<Error> {
    ControlFlow::Break(Error::unsupported(format!("{what} is not supported: {instead}")))
}

impl Rewrite {
    fn grow(&mut self, added: usize, what: &str) -> Result<()> {
        self.grown += added;
        if self.grown > GROWN_MAX {
            return Err(Error::new(
                base::ErrorKind::Exhausted,
                format!("{what} within itself makes a statement too large to plan"),
            ));
        }
        Ok(())
    }

    fn said_otherwise(&mut self, expr: &Expr) -> Result<Option<Expr>> {
        Ok(match expr {
            Expr::Function(function) => match self.meaning(function)? {
                Some(Expr::Function(meaning)) => {
                    Some(filtered(&meaning).unwrap_or(Expr::Function(meaning)))
                }
                None => filtered(function),
                other => other,
            },
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
                let not = matches!(expr, Expr::IsNotDistinctFrom(_, _));
                distinct_first(left, right, not)
            }
            Expr::AtTimeZone { timestamp, time_zone } => {
                Some(call("at_timezone", [(**timestamp).clone(), (**time_zone).clone()]))
            }
            Expr::Extract { field, expr, .. } => {
                extracted(field).map(|name| call(name, [(**expr).clone()]))
            }
            Expr::Substring { expr, substring_from: Some(from), substring_for, .. } => {
                let args = [Some(&**expr), Some(&**from), substring_for.as_deref()];
                Some(call("substr", args.into_iter().flatten().cloned()))
            }
            Expr::Cast { kind, expr, data_type, format: None, array: false } => {
                cast_of_json(kind, expr, data_type).or_else(|| rounded(kind, expr, data_type))
            }
            Expr::BinaryOp { left, op: BinaryOperator::Arrow, right } => {
                let lambda = lambda(left, right)?;
                Some(Expr::Lambda(self.with_own_names(lambda)))
            }
            _ => None,
        })
    }

    fn meaning(&mut self, function: &Function) -> Result<Option<Expr>> {
        let Some(name) = name_of(function) else { return Ok(None) };
        if name == "listagg" {
            return listagg(function);
        }
        let Some(mut args) = unnamed(function) else { return Ok(None) };
        if let Some((_, instead)) = ABSENT.iter().find(|(absent, _)| *absent == name) {
            return Err(Error::unsupported(format!("{name} is not supported: {instead}")));
        }
        if name == "try" {
            return Err(Error::invalid(format!("try takes one argument and not {}", args.len())));
        }
        let found =
            MEANINGS.iter().find(|(known, count, _)| *known == name && *count == args.len());
        let Some((_, _, text)) = found else { return Ok(None) };
        if let ("all_match", Some(Expr::Lambda(lambda))) = (name.as_str(), args.last_mut()) {
            contrary(lambda);
        }
        let mut meaning = template(text)?;
        let ControlFlow::Continue(()) = VisitMut::visit(&mut meaning, &mut Fill { args: &args });
        let mut size = Size(0);
        let ControlFlow::Continue(()) = VisitMut::visit(&mut meaning, &mut size);
        self.grow(size.0, &name)?;
        keep_clauses(function, &mut meaning)?;
        // What stood as one must stay one, whatever is around it.
        let stands_alone = matches!(meaning, Expr::Function(_) | Expr::Case { .. });
        Ok(Some(if stands_alone { meaning } else { Expr::Nested(Box::new(meaning)) }))
    }
}

impl Rewrite {
    /// A lambda whose parameters no column is called by: columns are looked for in any case, and
    /// would be found first.
    fn with_own_names(&mut self, mut lambda: LambdaFunction) -> LambdaFunction {
        let mut names = Vec::new();
        let params = match &mut lambda.params {
            OneOrManyWithParens::One(param) => std::slice::from_mut(param),
            OneOrManyWithParens::Many(params) => params.as_mut_slice(),
        };
        for param in params {
            self.lambdas += 1;
            let own = Ident::new(format!("__{}_{}", param.name.value.to_lowercase(), self.lambdas));
            names.push((std::mem::replace(&mut param.name, own.clone()), own));
        }
        let mut named = Named { names: &names, found: BTreeSet::new() };
        let ControlFlow::Continue(()) = VisitMut::visit(&mut lambda.body, &mut named);
        let unnamed = names.iter().filter(|(_, own)| !named.found.contains(&own.value));
        let unnamed: Vec<Expr> = unnamed.map(|(_, own)| Expr::Identifier(own.clone())).collect();
        if !unnamed.is_empty() {
            let body = std::mem::replace(&mut *lambda.body, Expr::value(Value::Null));
            *lambda.body = call(LAST, unnamed.into_iter().chain([body]));
        }
        lambda
    }
}

/// `x -> body` and `(x, y) -> body`, which come as an operator between the two.
fn lambda(params: &Expr, body: &Expr) -> Result<LambdaFunction> {
    let param = |expr: &Expr| match expr {
        Expr::Identifier(name) => {
            Ok(LambdaFunctionParameter { name: name.clone(), data_type: None })
        }
        other => Err(Error::invalid(format!(
            "{other} before -> is no parameter: write x -> ... or (x, y) -> ..."
        ))),
    };
    let params = match params {
        Expr::Tuple(params) => {
            OneOrManyWithParens::Many(params.iter().map(param).collect::<Result<_>>()?)
        }
        Expr::Nested(inner) => OneOrManyWithParens::One(param(inner)?),
        one => OneOrManyWithParens::One(param(one)?),
    };
    let body = match body {
        Expr::Nested(inner) => inner.clone(),
        other => Box::new(other.clone()),
    };
    Ok(LambdaFunction { params, body, syntax: LambdaSyntax::Arrow })
}

/// Calls what is called by a lambda's parameter by another name. Lambdas within have names of
/// their own by then.
struct Named<'a> {
    names: &'a [(Ident, Ident)],
    /// Those of their own names that stand in the body.
    found: BTreeSet<String>,
}

impl Named<'_> {
    fn find(&self, ident: &Ident) -> Option<&Ident> {
        let is = |known: &Ident| match (&known.quote_style, &ident.quote_style) {
            (None, None) => known.value.eq_ignore_ascii_case(&ident.value),
            _ => known.value == ident.value,
        };
        self.names.iter().find(|(known, _)| is(known)).map(|(_, own)| own)
    }
}

impl VisitorMut for Named<'_> {
    type Break = std::convert::Infallible;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        match expr {
            Expr::Identifier(ident) => {
                if let Some(own) = self.find(ident).cloned() {
                    self.found.insert(own.value.clone());
                    *ident = own;
                }
            }
            // A field of what the parameter is.
            Expr::CompoundIdentifier(parts) => {
                if let Some((first, fields)) = parts.split_first()
                    && let Some(own) = self.find(first).cloned()
                {
                    self.found.insert(own.value.clone());
                    // Not with a dot, which the planner takes for a table's.
                    let field = |of: Expr, name: &Ident| {
                        let name = Value::SingleQuotedString(name.value.clone());
                        call("get_field", [of, Expr::value(name)])
                    };
                    *expr = fields.iter().fold(Expr::Identifier(own.clone()), field);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Has a lambda answer the contrary.
fn contrary(lambda: &mut LambdaFunction) {
    let body = std::mem::replace(&mut *lambda.body, Expr::value(Value::Null));
    let expr = Box::new(Expr::Nested(Box::new(body)));
    *lambda.body = Expr::UnaryOp { op: UnaryOperator::Not, expr };
}

/// The name of a function that is not qualified, in lower case.
fn name_of(function: &Function) -> Option<String> {
    match function.name.0.as_slice() {
        [ObjectNamePart::Identifier(name)] => Some(name.value.to_lowercase()),
        _ => None,
    }
}

/// The arguments, if they are plain expressions; none for `CURRENT_TIMESTAMP` and its like.
fn unnamed(function: &Function) -> Option<Vec<Expr>> {
    let list = match &function.args {
        FunctionArguments::None => return Some(Vec::new()),
        FunctionArguments::List(list) => list,
        FunctionArguments::Subquery(_) => return None,
    };
    let plain = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    list.args.iter().map(plain).collect()
}

fn template(text: &str) -> Result<Expr> {
    Parser::new(&GenericDialect {})
        .try_with_sql(text)
        .and_then(|mut parser| parser.parse_expr())
        .map_err(|cause| Error::internal(format!("the meaning {text:?}: {cause}")))
}

/// Puts arguments where a meaning says `$1`.
struct Fill<'a> {
    args: &'a [Expr],
}

impl VisitorMut for Fill<'_> {
    type Break = std::convert::Infallible;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Self::Break> {
        if let Expr::Value(value) = expr
            && let Value::Placeholder(place) = &value.value
            && let Some(at) = place.strip_prefix('$').and_then(|at| at.parse::<usize>().ok())
            && let Some(arg) = at.checked_sub(1).and_then(|at| self.args.get(at))
        {
            let simple = matches!(
                arg,
                Expr::Identifier(_)
                    | Expr::CompoundIdentifier(_)
                    | Expr::Value(_)
                    | Expr::Function(_)
                    | Expr::Lambda(_)
            );
            *expr = if simple { arg.clone() } else { Expr::Nested(Box::new(arg.clone())) };
        }
        ControlFlow::Continue(())
    }
}

/// Counts expressions.
struct Size(usize);

impl VisitorMut for Size {
    type Break = std::convert::Infallible;

    fn pre_visit_expr(&mut self, _: &mut Expr) -> ControlFlow<Self::Break> {
        self.0 += 1;
        ControlFlow::Continue(())
    }
}

/// Gives an aggregate's clauses to what it means.
fn keep_clauses(function: &Function, meaning: &mut Expr) -> Result<()> {
    let (distinct, clauses) = match &function.args {
        FunctionArguments::List(list) => (list.duplicate_treatment.is_some(), &list.clauses[..]),
        _ => (false, &[][..]),
    };
    let bare = function.filter.is_none()
        && function.over.is_none()
        && function.null_treatment.is_none()
        && !distinct
        && clauses.is_empty();
    if bare {
        return Ok(());
    }
    let Expr::Function(meaning) = meaning else {
        return Err(Error::unsupported(format!(
            "a clause of {} is not supported: use it in a sub-query",
            function.name
        )));
    };
    if distinct || !clauses.is_empty() || function.null_treatment.is_some() {
        return Err(Error::unsupported(format!(
            "DISTINCT, ORDER BY and IGNORE NULLS within {} are not supported",
            function.name
        )));
    }
    meaning.over.clone_from(&function.over);
    meaning.filter = match (meaning.filter.take(), function.filter.clone()) {
        (Some(left), Some(right)) => Some(Box::new(Expr::BinaryOp {
            left: Box::new(Expr::Nested(left)),
            op: BinaryOperator::And,
            right: Box::new(Expr::Nested(right)),
        })),
        (one, other) => one.or(other),
    };
    Ok(())
}

/// A function whose FILTER is neither null, which DataFusion's `first_value` takes for true, nor
/// unknown to our windows.
fn filtered(function: &Function) -> Option<Expr> {
    if let Some(of_filtered) = of_filtered(function) {
        return Some(of_filtered);
    }
    let mut filtered = function.clone();
    let condition = Expr::Nested(filtered.filter.take()?);
    filtered.filter = Some(Box::new(Expr::IsTrue(Box::new(condition))));
    Some(Expr::Function(filtered))
}

/// The parser takes all that follows `IS DISTINCT FROM` for its right side. What stands in brackets
/// is known by them.
fn distinct_first(left: &Expr, right: &Expr, not: bool) -> Option<Expr> {
    let Expr::BinaryOp { left: near, op, right: far } = right else { return None };
    if !matches!(op, BinaryOperator::And | BinaryOperator::Or | BinaryOperator::Xor) {
        return None;
    }
    let first = distinct_first(left, near, not).unwrap_or_else(|| {
        let (left, near) = (Box::new(left.clone()), near.clone());
        match not {
            true => Expr::IsNotDistinctFrom(left, near),
            false => Expr::IsDistinctFrom(left, near),
        }
    });
    Some(Expr::BinaryOp { left: Box::new(first), op: op.clone(), right: far.clone() })
}

/// `sum(x) FILTER (WHERE c) OVER w` as `sum(CASE WHEN c THEN x END) OVER w`, of functions that pass
/// over nulls: our own windows (`sliding`, `moving`) are not told of a FILTER.
fn of_filtered(function: &Function) -> Option<Expr> {
    let name = name_of(function)?;
    if function.over.is_none() || !PASS_OVER_NULLS.contains(&name.as_str()) {
        return None;
    }
    let mut of_filtered = function.clone();
    let condition = of_filtered.filter.take()?;
    let FunctionArguments::List(list) = &mut of_filtered.args else { return None };
    let result = match list.args.first()? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => expr.clone(),
        FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => {
            Expr::value(Value::Number("1".into(), false))
        }
        _ => return None,
    };
    let mut case = template("CASE WHEN c THEN x END").ok()?;
    if let Expr::Case { conditions, .. } = &mut case {
        *conditions = vec![CaseWhen { condition: *condition, result }];
    }
    list.args[0] = FunctionArg::Unnamed(FunctionArgExpr::Expr(case));
    Some(Expr::Function(of_filtered))
}

/// `listagg(x, ',') WITHIN GROUP (ORDER BY y)` is `string_agg(x, ',' ORDER BY y)`.
fn listagg(function: &Function) -> Result<Option<Expr>> {
    let mut agg = function.clone();
    agg.name = ObjectName::from(vec![Ident::new("string_agg")]);
    let order = std::mem::take(&mut agg.within_group);
    if let FunctionArguments::List(list) = &mut agg.args {
        if !list.clauses.is_empty() {
            return Err(Error::unsupported(
                "ON OVERFLOW of listagg is not supported: leave it out",
            ));
        }
        if list.args.len() == 1 {
            let nothing = Expr::value(Value::SingleQuotedString(String::new()));
            list.args.push(FunctionArg::Unnamed(FunctionArgExpr::Expr(nothing)));
        }
        if !order.is_empty() {
            list.clauses.push(FunctionArgumentClause::OrderBy(order));
        }
    }
    Ok(Some(Expr::Function(agg)))
}

fn extracted(field: &DateTimeField) -> Option<&'static str> {
    Some(match field {
        DateTimeField::Year | DateTimeField::Years => "year",
        DateTimeField::Quarter => "quarter",
        DateTimeField::Month | DateTimeField::Months => "month",
        DateTimeField::Week(None) | DateTimeField::Weeks => "week",
        DateTimeField::Day | DateTimeField::Days => "day",
        DateTimeField::Dow | DateTimeField::DayOfWeek | DateTimeField::Isodow => "day_of_week",
        DateTimeField::Doy | DateTimeField::DayOfYear => "day_of_year",
        DateTimeField::Hour | DateTimeField::Hours => "hour",
        DateTimeField::Minute | DateTimeField::Minutes => "minute",
        DateTimeField::Second | DateTimeField::Seconds => "second",
        DateTimeField::Custom(name) => match name.value.to_lowercase().as_str() {
            "day_of_week" => "day_of_week",
            "day_of_year" => "day_of_year",
            "day_of_month" => "day_of_month",
            "year_of_week" | "yow" => "year_of_week",
            _ => return None,
        },
        _ => return None,
    })
}

fn call(name: &str, args: impl IntoIterator<Item = Expr>) -> Expr {
    let text = format!("{name}()");
    let mut call = template(&text).unwrap_or_else(|_impossible| Expr::value(Value::Null));
    if let Expr::Function(function) = &mut call
        && let FunctionArguments::List(list) = &mut function.args
    {
        let plain = |expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr));
        list.args = args.into_iter().map(plain).collect();
    }
    call
}

/// `CAST(json AS type)` of what is JSON by how it is written.
fn cast_of_json(kind: &CastKind, expr: &Expr, data_type: &DataType) -> Option<Expr> {
    let mut inner = expr;
    while let Expr::Nested(nested) = inner {
        inner = nested;
    }
    let Expr::Function(function) = inner else { return None };
    let name = name_of(function)?;
    let name = name.strip_prefix(TRY).unwrap_or(&name);
    if !ANSWER_JSON.contains(&name) {
        return None;
    }
    let try_cast = *kind == CastKind::TryCast;
    let ours = |name: &str| match try_cast {
        true => call(&format!("{TRY}{name}"), [inner.clone()]),
        false => call(name, [inner.clone()]),
    };
    let value = match data_type {
        DataType::Array(ArrayElemTypeDef::AngleBracket(_)) => ours("__json_as_varchars"),
        DataType::Varchar(None) => return Some(ours("__json_as_varchar")),
        _ => ours("__json_as_varchar"),
    };
    Some(Expr::Cast {
        kind: kind.clone(),
        expr: Box::new(value),
        data_type: data_type.clone(),
        format: None,
        array: false,
    })
}

/// A cast to an integer rounds; DataFusion's cuts off.
fn rounded(kind: &CastKind, expr: &Expr, data_type: &DataType) -> Option<Expr> {
    let to_integer = matches!(
        data_type,
        DataType::TinyInt(None)
            | DataType::SmallInt(None)
            | DataType::Int(None)
            | DataType::Integer(None)
            | DataType::BigInt(None)
    );
    let constant =
        matches!(expr, Expr::Value(value) if !matches!(value.value, Value::Number(_, _)));
    (to_integer && !constant).then(|| Expr::Cast {
        kind: kind.clone(),
        expr: Box::new(call(ROUNDED, [expr.clone()])),
        data_type: data_type.clone(),
        format: None,
        array: false,
    })
}

/// Replaces what may fail by what answers null.
struct Try;

impl VisitorMut for Try {
    type Break = Error;

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        match expr {
            Expr::Cast { kind, .. } => *kind = CastKind::TryCast,
            Expr::Function(function) => {
                let name = name_of(function).unwrap_or_default();
                if has_twin(&name)
                    && let [ObjectNamePart::Identifier(ident)] = function.name.0.as_mut_slice()
                {
                    ident.value = format!("{TRY}{name}");
                }
            }
            Expr::BinaryOp {
                op: BinaryOperator::Divide | BinaryOperator::Modulo, right, ..
            } => {
                let zero = Expr::value(Value::Number("0".into(), false));
                **right = call("nullif", [(**right).clone(), zero]);
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Writes `array(type)` as `array<type>`, which the parser knows: where Athena has brackets
/// after `array`, it always means the type. Brackets go around what stands behind `->`, so that
/// it is read whole: the parser takes the arrow for an operator that binds more tightly. And they go
/// around each row of `VALUES 1, 2`.
pub(crate) fn spelled(sql: &str) -> Option<String> {
    let dialect = GenericDialect {};
    let mut tokens = Tokenizer::new(&dialect, sql).tokenize().ok()?;
    let is_array = |token: &Token| match token {
        Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case("array"),
        _ => false,
    };
    let mut changed = false;
    for at in 1..tokens.len() {
        if tokens[at] != Token::LParen || !is_array(&tokens[at - 1]) {
            continue;
        }
        let mut depth = 0_usize;
        let end = tokens[at..].iter().position(|token| {
            match token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            depth == 0
        })?;
        tokens[at] = Token::Lt;
        tokens[at + end] = Token::Gt;
        changed = true;
    }
    let arrows: Vec<usize> = (0..tokens.len()).filter(|at| tokens[*at] == Token::Arrow).collect();
    // From the last on: what is put in then moves only what was dealt with.
    for at in arrows.into_iter().rev() {
        let mut depth = 0_usize;
        let ends = |token: &Token| match token {
            Token::LParen | Token::LBracket => {
                depth += 1;
                false
            }
            Token::RParen | Token::RBracket if depth > 0 => {
                depth -= 1;
                false
            }
            Token::RParen | Token::RBracket | Token::Comma => depth == 0,
            _ => false,
        };
        let end = tokens[at + 1..].iter().position(ends).map_or(tokens.len(), |end| at + 1 + end);
        tokens.insert(end, Token::RParen);
        tokens.insert(at + 1, Token::LParen);
        changed = true;
    }
    changed |= bracket_rows(&mut tokens);
    changed.then(|| tokens.iter().map(ToString::to_string).collect())
}

/// How many `VALUES 1, 2` a statement may have; with more they stay as they are.
const BARE_VALUES_MAX: usize = 50;

/// Where VALUES is followed by what begins a value, which no name is, brackets go around each.
fn bracket_rows(tokens: &mut Vec<Token>) -> bool {
    let word = |token: &Token| match token {
        Token::Word(word) if word.quote_style.is_none() => word.keyword,
        _ => Keyword::NoKeyword,
    };
    let begins_value = |token: &Token| match token {
        Token::Number(..) | Token::SingleQuotedString(_) => true,
        token => matches!(
            word(token),
            Keyword::NULL
                | Keyword::TRUE
                | Keyword::FALSE
                | Keyword::DATE
                | Keyword::TIMESTAMP
                | Keyword::CAST
                | Keyword::ARRAY
                | Keyword::MAP
        ),
    };
    let is_blank = |token: &&Token| matches!(token, Token::Whitespace(_));
    let first_after = |at: usize| at + 1 + tokens[at + 1..].iter().take_while(is_blank).count();
    let bare: Vec<usize> = (0..tokens.len())
        .filter(|at| word(&tokens[*at]) == Keyword::VALUES)
        .map(first_after)
        .filter(|first| tokens.get(*first).is_some_and(begins_value))
        .take(BARE_VALUES_MAX + 1)
        .collect();
    if bare.is_empty() || bare.len() > BARE_VALUES_MAX {
        return false;
    }
    let mut brackets = Vec::new();
    for first in bare {
        let (mut depth, mut begin, mut end) = (0_usize, first, tokens.len());
        for (at, token) in tokens.iter().enumerate().skip(first) {
            match token {
                Token::LParen | Token::LBracket => depth += 1,
                Token::RParen | Token::RBracket if depth > 0 => depth -= 1,
                Token::Comma if depth == 0 => {
                    brackets.extend([(begin, Token::LParen), (at, Token::RParen)]);
                    begin = at + 1;
                }
                Token::RParen | Token::SemiColon | Token::EOF => end = at,
                token if depth == 0 => {
                    let ends = [
                        Keyword::ORDER,
                        Keyword::LIMIT,
                        Keyword::OFFSET,
                        Keyword::FETCH,
                        Keyword::UNION,
                        Keyword::EXCEPT,
                        Keyword::INTERSECT,
                        Keyword::VALUES,
                    ];
                    if ends.contains(&word(token)) {
                        end = at;
                    }
                }
                _ => {}
            }
            if end <= at {
                break;
            }
        }
        brackets.extend([(begin, Token::LParen), (end, Token::RParen)]);
    }
    brackets.sort_by_key(|(at, _)| *at);
    let mut brackets = brackets.into_iter().peekable();
    let mut bracketed = Vec::with_capacity(tokens.len() + brackets.len());
    for (at, token) in tokens.drain(..).enumerate() {
        while let Some((_, bracket)) = brackets.next_if(|(place, _)| *place <= at) {
            bracketed.push(bracket);
        }
        bracketed.push(token);
    }
    bracketed.extend(brackets.map(|(_, bracket)| bracket));
    *tokens = bracketed;
    true
}
