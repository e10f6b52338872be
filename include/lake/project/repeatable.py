"""What two builds of the same rows get the same from: Spark's functions by name, and where those may stand.

Spark 4.2 says which there are (SHOW FUNCTIONS); a test holds it against these lists. What is in none of them is
refused. Two kinds stay with the author: sums and averages of doubles may differ in their last digits, and max_by or
min_by takes either of two rows that its order does not tell apart. Names are sorted.
"""

import difflib
import re
from itertools import pairwise

from sqlglot import exp
from sqlglot.tokens import Token, TokenType


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# They give the same for the same rows. Some do so in the right place only: see `_wrong_order`.
REPEATABLE = _names(
    """
    abs acos acosh add_months aes_decrypt aggregate and any any_value approx_count_distinct array array_agg
    array_append array_compact array_contains array_distinct array_except array_insert array_intersect array_join
    array_max array_min array_position array_prepend array_remove array_repeat array_size array_sort array_union
    arrays_overlap arrays_zip ascii asin asinh assert_true atan atan2 atanh avg base64 between bigint bin binary
    bit_and bit_count bit_get bit_length bit_or bit_xor bitmap_and_agg bitmap_bit_position bitmap_bucket_number
    bitmap_construct_agg bitmap_count bitmap_or_agg bool_and bool_or boolean bround btrim cardinality case cast cbrt
    ceil ceiling char char_length character_length chr coalesce collate collation collect_list collect_set concat
    concat_ws contains conv convert_timezone corr cos cosh cot count count_if covar_pop covar_samp crc32 csc cume_dist
    date date_add date_diff date_format date_from_unix_date date_part date_sub date_trunc dateadd datediff datepart
    day dayname dayofmonth dayofweek dayofyear decimal decode degrees dense_rank div double e element_at elt encode
    endswith equal_null every exists exp explode explode_outer expm1 extract factorial filter find_in_set first
    first_value flatten float floor forall format_number format_string from_avro from_csv from_json from_protobuf
    from_unixtime from_utc_timestamp from_xml get get_json_object getbit greatest grouping grouping_id hash hex hour
    hypot if ifnull ilike in initcap inline inline_outer instr int is_valid_utf8 is_valid_variant is_variant_null
    isnan isnotnull isnull json_array_length json_object_keys json_tuple kurtosis lag last last_day last_value lcase
    lead least left len length levenshtein like listagg ln locate log log10 log1p log2 lower lpad ltrim luhn_check
    make_date make_dt_interval make_interval make_time make_timestamp make_timestamp_ltz make_timestamp_ntz
    make_valid_utf8 make_ym_interval map map_concat map_contains_key map_entries map_filter map_from_arrays
    map_from_entries map_keys map_values map_zip_with mask max max_by md5 mean median min min_by minute mod month
    monthname months_between named_struct nanvl negative next_day not nth_value ntile nullif nullifzero nvl nvl2
    octet_length or overlay parse_json parse_url percent_rank percentile percentile_cont percentile_disc pi pmod
    posexplode posexplode_outer position positive pow power printf quarter quote radians raise_error range rank reduce
    regexp regexp_count regexp_extract regexp_extract_all regexp_instr regexp_like regexp_replace regexp_substr
    regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat replace reverse
    right rint rlike round row_number rpad rtrim schema_of_avro schema_of_csv schema_of_json schema_of_variant
    schema_of_variant_agg schema_of_xml sec second sentences sequence session_window sha sha1 sha2 shiftleft
    shiftright shiftrightunsigned sign signum sin sinh size skewness slice smallint some sort_array soundex space
    split split_part sqrt st_asbinary st_geogfromwkb st_geomfromwkb st_setsrid st_srid stack startswith std stddev
    stddev_pop stddev_samp str_to_map string string_agg struct substr substring substring_index sum tan tanh time
    time_bucket time_diff time_from_micros time_from_millis time_from_seconds time_to_micros time_to_millis
    time_to_seconds time_trunc timestamp timestamp_micros timestamp_millis timestamp_seconds tinyint to_avro to_binary
    to_char to_csv to_date to_json to_number to_protobuf to_time to_timestamp to_timestamp_ltz to_timestamp_ntz
    to_unix_timestamp to_utc_timestamp to_varchar to_variant_object to_xml transform transform_keys transform_values
    translate trim trunc try_add try_aes_decrypt try_avg try_divide try_element_at try_make_interval
    try_make_timestamp try_make_timestamp_ltz try_make_timestamp_ntz try_mod try_multiply try_parse_json try_parse_url
    try_subtract try_sum try_to_binary try_to_date try_to_number try_to_time try_to_timestamp try_url_decode
    try_validate_utf8 try_variant_get typeof ucase unbase64 unhex unix_date unix_micros unix_millis unix_seconds
    unix_timestamp upper url_decode url_encode validate_utf8 var_pop var_samp variance variant_explode
    variant_explode_outer variant_get vector_avg vector_cosine_similarity vector_inner_product vector_l2_distance
    vector_norm vector_normalize vector_sum weekday weekofyear when width_bucket window window_time xpath
    xpath_boolean xpath_double xpath_float xpath_int xpath_long xpath_number xpath_short xpath_string xxhash64 year
    zeroifnull zip_with
    """
)

# Written like functions, and none in SHOW FUNCTIONS.
WRITTEN_LIKE_FUNCTIONS = _names("character dec numeric timestampadd timestampdiff try_cast varchar")

# What Spark, or sqlglot, has before a parenthesis that opens no arguments.
SYNTAX = _names(
    """
    all and as by cube distinct else end except filter from group having intersect interval is join lateral limit
    minus offset on or order over partition pivot recursive rollup select sets table then union unpivot using values
    where with within
    """
)

# Why the others are refused.
_REASONS = {
    "it gives the time of the build; use :start_date and :end_date": """
        curdate current_date current_time current_timestamp localtimestamp now
    """,
    "it gives what the session or the server happens to be": """
        collations current_catalog current_database current_path current_schema current_timezone current_user
        python_worker_logs session_user sql_keywords user version
    """,
    "it gives a random value": "aes_encrypt rand randn random randstr shuffle uniform uuid",
    "it gives how the rows happen to lie in files and tasks": """
        input_file_block_length input_file_block_start input_file_name monotonically_increasing_id spark_partition_id
    """,
    "it runs whatever code it names": "java_method measure reflect try_reflect",
    "it takes any of the most frequent values; count them, and max_by(value, struct(count, value))": "mode",
    "its estimate depends on the order of the rows; use an exact one such as percentile(), count(distinct …)": """
        approx_percentile approx_top_k approx_top_k_accumulate approx_top_k_combine approx_top_k_estimate
        count_min_sketch histogram_numeric hll_sketch_agg hll_sketch_estimate hll_union hll_union_agg
        kll_merge_agg_bigint kll_merge_agg_double kll_merge_agg_float kll_sketch_agg_bigint kll_sketch_agg_double
        kll_sketch_agg_float kll_sketch_get_n_bigint kll_sketch_get_n_double kll_sketch_get_n_float
        kll_sketch_get_quantile_bigint kll_sketch_get_quantile_double kll_sketch_get_quantile_float
        kll_sketch_get_rank_bigint kll_sketch_get_rank_double kll_sketch_get_rank_float kll_sketch_merge_bigint
        kll_sketch_merge_double kll_sketch_merge_float kll_sketch_to_string_bigint kll_sketch_to_string_double
        kll_sketch_to_string_float percentile_approx theta_difference theta_intersection theta_intersection_agg
        theta_sketch_agg theta_sketch_estimate theta_union theta_union_agg tuple_difference_double
        tuple_difference_integer tuple_difference_theta_double tuple_difference_theta_integer
        tuple_intersection_agg_double tuple_intersection_agg_integer tuple_intersection_double
        tuple_intersection_integer tuple_intersection_theta_double tuple_intersection_theta_integer
        tuple_sketch_agg_double tuple_sketch_agg_integer tuple_sketch_estimate_double tuple_sketch_estimate_integer
        tuple_sketch_summary_double tuple_sketch_summary_integer tuple_sketch_theta_double tuple_sketch_theta_integer
        tuple_union_agg_double tuple_union_agg_integer tuple_union_double tuple_union_integer tuple_union_theta_double
        tuple_union_theta_integer
    """,
}
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}

# Aggregates that sqlglot does not know as such.
MORE_AGGREGATES = _names("bitmap_and_agg every mean some std try_avg try_sum")

# Spark takes these for functions without a parenthesis, too.
_BARE = _names("current_date current_time current_timestamp current_user localtimestamp session_user user")

# Take the row that comes first, last or n-th: of which order?
_BY_POSITION = (
    exp.AnyValue,
    exp.First,
    exp.FirstValue,
    exp.Lag,
    exp.Last,
    exp.LastValue,
    exp.Lead,
    exp.NthValue,
    exp.Ntile,
    exp.RowNumber,
)
# Give an array in the order in which the rows come; these ask for its elements in any order.
_COLLECTED = (exp.ArrayAgg, exp.ArrayUniqueAgg)
_ORDER_FREE = (exp.ArrayContains, exp.ArrayMax, exp.ArrayMin, exp.ArraySize, exp.ArraySort)
# Spark reads such text as a time where it wants one, written there or not: `log.log_dt < 'now'`.
_SPECIAL = re.compile(
    r"\s*(now|(today|tomorrow|yesterday)\s*((utc|gmt|ut|z)?([+-]\s*\d.*)?|[a-z_]+(/[a-z_+-]+)+)?)\s*", re.IGNORECASE
)

# Functions that read a text as a time, and which sqlglot does not know as such.
_READ_TIMES = _names(
    "timestamp_ltz to_timestamp_ltz to_timestamp_ntz try_to_date try_to_timestamp try_to_timestamp_ltz "
    "try_to_timestamp_ntz"
)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Neg)


def fault(tree: exp.Expr, text: str, tokens: list[Token]) -> tuple[str, int | None] | None:
    """The first thing in a query or expression that may give something else the next time, with its line; else None."""
    if "${" in text:
        return "Spark replaces ${…} by settings of the session; use :start_date and :end_date", None
    aliases = {
        alias.this.meta.get("start") for alias in tree.find_all(exp.TableAlias) if alias.this and alias.args["columns"]
    }
    for token, following in pairwise(tokens):
        if following.token_type != TokenType.L_PAREN or token.start in aliases or not re.fullmatch(r"\w+", token.text):
            continue
        if why := _unknown(token.text.lower()):
            return why, token.line
    for node in tree.walk():
        if why := _wrong_place(node):
            lines = [part.meta["line"] for part in node.walk() if "line" in part.meta]
            # What is written without a parenthesis or arguments has no place in the tree.
            lines += [
                token.line
                for token in tokens
                if why.lower().startswith(token.text.lower()) and token.text.isidentifier()
            ]
            return why, lines[0] if lines else None
    return None


def _unknown(name: str) -> str | None:
    """Why a function must not be called; None if it is repeatable, or no function at all."""
    if name in REFUSED:
        return f"{name}() makes two builds differ: {REFUSED[name]}"
    if name in REPEATABLE or name in WRITTEN_LIKE_FUNCTIONS or name in SYNTAX or name.isdigit():
        return None
    near = difflib.get_close_matches(name, REPEATABLE, n=1)
    hint = f"did you mean {near[0]}()? " if near else ""
    return f"{name}() is not known to be repeatable; {hint}if it is, add it to include/lake/project/repeatable.py"


def _wrong_place(node: exp.Expr) -> str | None:
    """Why this part of a query may give something else the next time."""
    if isinstance(node, exp.Column) and not node.table and node.name.lower() in _BARE:
        return (
            f"{node.name} makes two builds differ: {REFUSED[node.name.lower()]}; as a column it needs its table's alias"
        )
    if isinstance(node, exp.Func) and node.sql_name().lower() in REFUSED:
        return _unknown(node.sql_name().lower())
    if isinstance(node, exp.Column) and any(part.name.lower() == "_metadata" for part in node.parts):
        return "_metadata makes two builds differ: it gives how the rows happen to lie in files"
    if (time := _as_time(node)) and _is_made_of_constants(time):
        return (
            f"{node.sql(dialect='spark')} may give the time of the build: write the time itself, such as "
            "timestamp'2026-01-05 00:00:00', or use :start_date and :end_date"
        )
    if _is_text_literal(node) and _SPECIAL.fullmatch(node.name) and not _is_text(node):
        return (
            f"'{node.name}' makes two builds differ: Spark reads it as the time of the build; use :start_date and "
            f":end_date, or cast('{node.name}' as string) where it is text"
        )
    if isinstance(node, (exp.Limit, exp.Offset, exp.Fetch)):
        order = node.parent and node.parent.args.get("order")
        if not order:
            return "LIMIT without ORDER BY makes two builds differ: say which rows come first"
        if not any(map(_is_of_the_row, order.expressions)):
            return "LIMIT with an ORDER BY without a column makes two builds differ: say which rows come first"
    if isinstance(node, exp.TableSample):
        return "TABLESAMPLE makes two builds differ: where rows lie decides which it takes"
    if isinstance(node, exp.QueryTransform):
        return "TRANSFORM … USING makes two builds differ: it runs whatever code it names"
    return _wrong_order(node)


def _is_of_the_row(ordered: exp.Expr) -> bool:
    """May rows differ in what an ORDER BY names: a column, its position, ALL, or a count?"""
    what = ordered.this.unnest()
    is_position = isinstance(what, exp.Literal) and not what.is_string
    return is_position or what.find(exp.Column, exp.Var, exp.AggFunc, exp.Subquery) is not None


def _is_text_literal(node: exp.Expr) -> bool:
    return isinstance(node, exp.RawString) or (isinstance(node, exp.Literal) and node.is_string)


def _as_time(node: exp.Expr) -> exp.Expr | None:
    """What a cast or a function reads as a time; None if the node is neither."""
    if isinstance(node, exp.Cast):
        return node.this if node.to.this in exp.DataType.TEMPORAL_TYPES else None
    if isinstance(node, exp.Anonymous):
        return node.expressions[0] if node.name.lower() in _READ_TIMES and node.expressions else None
    return node.this if isinstance(node, (exp.TsOrDsToDate, exp.StrToTime, exp.StrToUnix)) else None


def _is_made_of_constants(value: exp.Expr) -> bool:
    """Is a text made of constants alone? Nobody knows here whether it becomes 'now'."""
    value = value.unnest()
    if _as_time(value) is not None or isinstance(value, (*_ARITHMETIC, exp.TsOrDsAdd, exp.Null)):
        return False  # a time or a number: text in it is looked at by itself
    if isinstance(value, (exp.Literal, exp.RawString)):
        return False
    return value.find(exp.Identifier, exp.Placeholder, exp.Parameter) is None


def _is_text(literal: exp.Expr) -> bool:
    return isinstance(literal.parent, (exp.Cast, exp.TryCast)) and literal.parent.is_type(exp.DataType.Type.TEXT)


def _wrong_order(node: exp.Expr) -> str | None:
    if isinstance(node, exp.Window) and node.args.get("spec") and not _is_ordered(node):
        spec = node.args["spec"]
        return None if str(spec.args.get("kind")).upper() != "ROWS" else "ROWS BETWEEN needs an ORDER BY in its window"
    if not isinstance(node, (*_BY_POSITION, *_COLLECTED, exp.GroupConcat)):
        return None
    name = node.sql_name().lower()
    parent, ordered = node.parent, False
    while isinstance(parent, (exp.Filter, exp.IgnoreNulls, exp.RespectNulls, exp.Window, exp.WithinGroup, exp.Paren)):
        ordered = ordered or (isinstance(parent, exp.Window) and _is_ordered(parent))
        ordered = ordered or isinstance(parent, exp.WithinGroup)
        parent = parent.parent
    if isinstance(node, _BY_POSITION):
        cure = "max_by(value, struct(…)) takes one by an order, and so does a window with ORDER BY"
        return None if ordered else f"{name}() without an order makes two builds differ: {cure}"
    if isinstance(node, exp.GroupConcat):
        inside = isinstance(node.this, exp.Order)
        cure = "write WITHIN GROUP (ORDER BY …)"
        return None if ordered or inside else f"listagg() without an order makes two builds differ: {cure}"
    free = isinstance(parent, _ORDER_FREE) or (
        isinstance(parent, exp.Anonymous) and parent.name.lower() == "cardinality"
    )
    if free or (ordered and isinstance(node, exp.ArrayAgg)):
        return None
    collected = "collect_list" if isinstance(node, exp.ArrayAgg) else "collect_set"
    return f"{collected}() without an order makes two builds differ: write sort_array({collected}(…))"


def _is_ordered(window: exp.Expr) -> bool:
    """Has a window an ORDER BY, of its own or of the WINDOW that it names, by more than constants?"""
    order = window.args.get("order")
    if order is None and window.args.get("alias"):
        select = window.find_ancestor(exp.Select)
        named = {each.name.lower(): each for each in (select.args.get("windows") or [] if select else [])}
        base = named.get(window.args["alias"].name.lower())
        return base is not None and base is not window and _is_ordered(base)
    return order is not None and any(each.find(exp.Column) for each in order.expressions)
