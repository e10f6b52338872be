"""What the SELECTs say, and what a wrong one is told."""

from pathlib import Path

import pytest

from include.lake import settings
from include.lake.errors import ContractError, UsageError
from include.lake.project import contracts, lineage, selects

# The upstream lists of the tables' documentation pages.
UPSTREAM = {
    "we_mart.wv_server_log_base": ["service_log.weverse_server_log"],
    "we_mart.wv_sess_daily": [
        "we_mart.we_artist",
        "we_mart.we_user",
        "we_mart.ws_fc_user_history",
        "we_mart.wv_comm_user",
        "we_mart.wv_server_log_base",
        "weverse2.community_content_common_notice",
        "weverse2.community_content_post",
    ],
    "we_mart.wv_comm_user": [
        "we_mart.ods_wv_member_profile",
        "we_mart.we_artist",
        "we_mart.we_user",
        "we_mart.ws_fc_user_history",
        "we_mart.wv1_join_info",
        "we_mart.wv_user_ctry_history",
        "we_meta.v_to_wv_comm_mapping",
        "weverse2.community_common_report",
        "weverse2.community_log_member_status_log",
        "weverse2.community_log_v_member_migration",
        "weverse2.community_member_special_member",
        "weverse2.notification_push_config",
    ],
}

CONTRACT = """\
about: Calls per day and topic.
key: [topic]
partitioned_by: [part_date]
columns:
  - {name: topic, type: string, nullable: true}
  - {name: calls, type: bigint}
  - {name: part_date, type: string}
"""
SELECT = """\
select
    log.topic,
    count(*) as calls,
    log.date_id as part_date
from service_log.weverse_server_log as log
where log.date_id between :start_date and :end_date
group by all
"""


def parse(select: str = SELECT, contract: str = CONTRACT) -> lineage.Select:
    return selects.parse_select(select, contracts.parse(contract, Path("schema/calls.yaml")))


@pytest.mark.parametrize("table", sorted(UPSTREAM))
def test_inputs_are_those_of_the_documentation(table: str) -> None:
    assert list(lineage.inputs(table)) == sorted(UPSTREAM[table])


def test_tables_come_after_their_inputs() -> None:
    order = lineage.in_order()
    assert sorted(order) == sorted(contracts.load_all())
    for table in order:
        assert all(order.index(name) < order.index(table) for name in lineage.inputs(table))


def test_upstream_leaves_sources_out() -> None:
    assert set(lineage.upstream(["we_mart.wv_sess_daily"])) == set(UPSTREAM)


def test_only_tables_and_parameters_are_replaced() -> None:
    where = "and log.topic <> ':start_date service_log.weverse_server_log'  -- :end_date of service_log.x\n"
    select = SELECT.replace("group by all", where + "group by all")
    table = "service_log.weverse_server_log as"
    expected = select.replace(f"from {table}", f"from {lineage.view_name(table)}").replace(
        "between :start_date and :end_date", "between '2026-01-05' and '2026-01-06'"
    )
    assert parse(select).over_views("2026-01-05", "2026-01-06") == expected
    with pytest.raises(UsageError):
        parse().over_views("2026-01-05", "x' or '1'='1")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("count(*) as calls", "count( as calls", "schema/calls.sql:3: does not parse"),
        ("log.topic,", "log.topic, log.hour,", "gives column 'hour', which its contract does not have"),
        ("log.topic,", "log.topic, log.topic,", "gives column topic twice"),
        ("log.topic,", "", "does not give column topic of its contract"),
        ("log.topic,\n    count(*) as calls", "*", "name the columns"),
        (
            "count(*) as calls",
            "count(*)",
            "schema/calls.sql:3: gives COUNT(*) without a name: give it one (COUNT(*) as …)",
        ),
        ("and :end_date", "and :last_date", "schema/calls.sql:6: unknown parameter :last_date"),
        ("between :start_date and :end_date", "<= :end_date", "must restrict the days with both"),
        (
            "group by all",
            "and log.topic < current_date()",
            "schema/calls.sql:7: current_date() makes two builds differ",
        ),
        ("group by all", "and log.topic < CURRENT_DATE", "schema/calls.sql:7: current_date() makes two builds differ"),
        ("count(*)", "max(now())", "schema/calls.sql:3: now() makes two builds differ"),
        ("count(*)", "max(log.hour + rand(/* again */))", "schema/calls.sql:3: rand() makes two builds differ"),
        ("service_log.weverse_server_log as", "weverse_server_log as", "is neither a table"),
        ("service_log.weverse_server_log as", "prod.service_log.weverse_server_log as", "without a catalog"),
        ("weverse_server_log as log", "weverse_server_log", "give service_log.weverse_server_log an alias"),
        (SELECT, "drop table service_log.weverse_server_log", "must be exactly one SELECT"),
        (SELECT, SELECT + ";" + SELECT, "must be exactly one SELECT"),
    ],
)
def test_a_wrong_select_is_told_where_and_why(old: str, new: str, told: str) -> None:
    assert old in SELECT
    with pytest.raises(ContractError) as error:
        parse(SELECT.replace(old, new))
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "about: Calls per day and topic.\nkey: [topic]",
            "key: [topic]",
        ),
        ("key: [topic]", "kye: [topic]"),
        ("key: [topic]", "key: [subject]"),
        ("type: bigint", "type: long"),
        ("{name: calls, type: bigint}", "{name: calls}"),
        ("{name: calls, type: bigint}", "{name: topic, type: bigint}"),
        ("name: calls", "name: Calls; drop"),
        ("partitioned_by: [part_date]", "reads: {a.b: yesterday}"),
        ("partitioned_by: [part_date]", "patience_hours: -1"),
        ("partitioned_by: [part_date]", "partitioned_by: [calls]"),
        ("columns:", "columns"),
        (CONTRACT, "- a list"),
    ],
)
def test_a_wrong_contract_is_told_where_and_why(old: str, new: str) -> None:
    assert old in CONTRACT
    with pytest.raises(ContractError) as error:
        contracts.parse(CONTRACT.replace(old, new), Path("schema/calls.yaml"))
    assert str(error.value).startswith("schema/calls.yaml")
    assert "\n" not in str(error.value)


def test_the_nearest_table_is_proposed() -> None:
    with pytest.raises(UsageError, match=r"did you mean we_mart\.wv_sess_daily\?"):
        contracts.get("we_mart.wv_ses_daily")


def code_id(project, select: str = SELECT, contract: str = CONTRACT) -> str:
    project({"schema/calls.sql": select, "schema/calls.yaml": contract})
    return lineage.code_id("schema.calls")


def test_the_code_id_follows_the_meaning_and_nothing_else(project) -> None:
    before = code_id(project)
    same = [
        (SELECT.replace("select\n", "SELECT -- why\n").replace("    ", "  "), CONTRACT),
        (SELECT, CONTRACT.replace("Calls per day", "The calls of a day")),
        (SELECT, CONTRACT.replace("type: bigint}", "type: bigint, comment: 방문}")),
        (SELECT, "\n".join(sorted(CONTRACT.splitlines(), key=lambda line: not line.startswith("key"))) + "\n"),
    ]
    other = [
        (SELECT.replace("count(*)", "count(1)"), CONTRACT),
        (
            SELECT.replace("<= :end_date", "< :end_date").replace(
                "between :start_date and", ">= :start_date and log.date_id <="
            ),
            CONTRACT,
        ),
        (SELECT, CONTRACT.replace("type: bigint", "type: int")),
    ]
    assert {code_id(project, *texts) for texts in same} == {before}
    assert before not in {code_id(project, *texts) for texts in other}


def test_a_default_format_that_is_written_out_changes_the_code_id(project) -> None:
    """to_date(text) reads more texts than to_date(text, 'yyyy-MM-dd')."""
    written, left_out = (
        SELECT.replace("count(*)", f"count(to_date(log.date_id{form}))") for form in (", 'yyyy-MM-dd'", "")
    )
    assert code_id(project, written) != code_id(project, left_out)


def test_what_is_only_checked_makes_no_history_stale_and_ends_a_failed_try(project) -> None:
    rows, checked = code_id(project), lineage.checks_id("schema.calls")
    for contract in (CONTRACT.replace("nullable: true", "nullable: false"), CONTRACT + "checks: [calls > 0]\n"):
        assert code_id(project, contract=contract) == rows
        assert lineage.checks_id("schema.calls") != checked
    code_id(project, SELECT.replace("count(*)", "count(1)"))
    assert lineage.checks_id("schema.calls") != checked


def test_the_format_of_a_check_does_not_count_and_its_meaning_does(project) -> None:
    def checks_id(checks: str) -> str:
        code_id(project, contract=CONTRACT + checks)
        return lineage.checks_id("schema.calls")

    before = checks_id("checks: [calls > 0]\n")
    assert checks_id("checks:\n  - CALLS  >  0  -- of course\n") == before
    assert checks_id("checks: [calls > 1]\n") != before
    assert checks_id("checks: [warn: calls > 0]\n") != before


def test_a_circle_is_named(project) -> None:
    def table(name: str, reads: str) -> dict[str, str]:
        select = SELECT.replace("service_log.weverse_server_log", reads).replace("date_id", "part_date")
        return {f"schema/{name}.sql": select, f"schema/{name}.yaml": CONTRACT}

    circle = table("a", "schema.b") | table("b", "schema.a")
    project(circle | table("reader", "schema.b") | table("good", "we_mart.wv_server_log_base"))
    for name in ("schema.a", "schema.b", "schema.reader"):
        with pytest.raises(ContractError, match=r"a\.sql: the SELECTs .* circle: schema\.a -> schema\.b -> schema\.a$"):
            lineage.in_order([name])
    assert set(lineage.broken()) == {"schema.a", "schema.b", "schema.reader"}
    assert "schema.good" in lineage.in_order()


KEPT = """\
about: The newest name of each user.
key: [user]
kept_by: [user]
columns: [{name: user, type: string}, {name: name, type: string}]
touched_by:
  shop.login:
    keys: select changed.person as user from changed
    rows: select login.* from shop.login as login left semi join touched on touched.user = login.person
"""
LOGIN = """\
about: Logins.
partitioned_by: [day]
columns: [{name: person, type: string}, {name: name, type: string}, {name: day, type: string}]
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("changed.person", "changed.pesron", "`keys`: changed has no column pesron; did you mean person?"),
        ("select changed.person", "select persn", "`keys`: there is no column persn; did you mean person?"),
        ("touched.user", "touched.usr", "`rows`: touched has no column usr; did you mean user?"),
        ("= login.person", "= login.user", "`rows`: login has no column user; there are day, name, person"),
    ],
)
def test_a_column_that_no_touched_key_has_is_named(project, old: str, new: str, message: str) -> None:
    select = "select login.person as user, max(login.name) as name from shop.login as login group by login.person\n"
    files = {"shop/login.yaml": LOGIN, "shop/last_name.sql": select, "shop/last_name.yaml": KEPT}
    project(files)
    assert not lineage.broken()
    assert old in KEPT
    project({"shop/last_name.yaml": KEPT.replace(old, new)})
    where = f"{settings.SQL}/shop/last_name.yaml:{7 if '`keys`' in message else 8}: `touched_by` of shop.login, "
    assert lineage.broken() == {"shop.last_name": where + message}
