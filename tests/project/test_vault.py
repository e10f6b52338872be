"""Tables of a Data Vault: what their contracts may say, and what is made of it."""

from collections.abc import Callable

import pytest

from include.lake.errors import ContractError
from include.lake.project import contracts, current, lineage

Project = Callable[[dict[str, str]], None]

RAW = """\
about: Sales.
partitioned_by: [part_date]
columns:
  - {name: shop, type: string}
  - {name: part_date, type: string}
"""
STAGE = """\
about: Sales in one form.
key: []
partitioned_by: [part_date]
columns:
  - {name: record_source, type: string}
  - {name: event_ts, type: timestamp}
  - {name: shop, type: string}
  - {name: till, type: bigint}
  - {name: colour, type: string}
  - {name: part_date, type: string}
"""
STAGE_SQL = """\
select 'tills' as record_source, cast(null as timestamp) as event_ts, sale.shop, cast(null as bigint) as till,
    cast(null as string) as colour, sale.part_date
from vault.raw as sale where sale.part_date between :start_date and :end_date
"""
ENDS = """\
  - {name: load_date, type: string}
  - {name: record_source, type: string}
"""
HUB = f"""\
about: Shops.
vault: {{hub: [shop], stage: vault.stage}}
partitioned_by: [load_date]
columns:
  - {{name: shop_pk, type: string}}
  - {{name: shop, type: string}}
{ENDS}"""
TILL = HUB.replace("[shop]", "[shop, till]").replace(
    "  - {name: shop, type: string}\n", "  - {name: shop, type: string}\n  - {name: till, type: bigint}\n"
)
LINK = f"""\
about: Which tills a shop has.
vault: {{link: [hub_till, hub_shop], stage: vault.stage, sources: [tills]}}
columns:
  - {{name: link_till_shop_pk, type: string}}
  - {{name: till_pk, type: string}}
  - {{name: shop_pk, type: string}}
{ENDS}"""
SATELLITE = f"""\
about: What a shop looks like.
vault: {{satellite: hub_shop, stage: vault.stage, sources: [tills, painters]}}
columns:
  - {{name: shop_pk, type: string}}
  - {{name: colour, type: string}}
  - {{name: effective_from, type: timestamp}}
{ENDS}"""
FILES = {
    "vault/raw.yaml": RAW, "vault/stage.yaml": STAGE, "vault/stage.sql": STAGE_SQL, "vault/hub_shop.yaml": HUB,
    "vault/hub_till.yaml": TILL.replace("shop_pk", "till_pk"), "vault/link_till_shop.yaml": LINK,
    "vault/sat_shop.yaml": SATELLITE,
}  # fmt: skip


def test_what_follows_from_a_declaration(project: Project) -> None:
    project(FILES)
    assert not lineage.broken()
    hub, link, satellite = (contracts.get(f"vault.{name}") for name in ("hub_shop", "link_till_shop", "sat_shop"))
    assert (hub.key, hub.kept_by, hub.is_built, hub.place_column) == (("shop_pk",), ("shop_pk",), True, "load_date")
    assert (satellite.key, satellite.kept_by) == (("shop_pk", "effective_from"), ("shop_pk",))
    assert [column.name for column in link.columns if not column.nullable] == link.column_names
    assert (
        lineage.inputs("vault.link_till_shop") == ("vault.stage",) and lineage.select("vault.sat_shop").reads_published
    )
    assert lineage.touches("vault.hub_shop")["vault.stage"].keys.text == (
        "select upper(cast(md5(nullif(upper(trim(changed.shop)), '')) as string)) as shop_pk\nfrom changed"
    )
    text = current.project().select_text("vault.link_till_shop")
    # Each business key once, in the order of the hubs.
    key = text[: text.index("as link_till_shop_pk")].partition("select")[2]
    assert [key.count(f"event.{name}") for name in ("shop", "till")] == [1, 1] and key.index("shop") < key.index("till")
    assert "where event.record_source in ('tills')" in text


def test_what_a_hub_says_changes_the_code_of_its_links_and_no_other(project: Project) -> None:
    project(FILES)
    before = {name: lineage.code_id(f"vault.{name}") for name in ("hub_shop", "link_till_shop", "sat_shop")}
    project({"vault/hub_till.yaml": FILES["vault/hub_till.yaml"].replace("[shop, till]", "[till]")})
    changed = {name for name, code in before.items() if lineage.code_id(f"vault.{name}") != code}
    assert changed == {"link_till_shop"}


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("hub_shop", "{hub: [shop],", "{", ":2: `vault` needs one of hub, link, satellite, transactional_link"),
        ("hub_shop", "{hub: [shop],", "{hub: [shop], satellite: x,", "and has hub and satellite"),
        ("hub_shop", "hub: [shop], stage: vault.stage", "hub: [shop]", "`stage` is missing: write the table of days"),
        ("hub_shop", "hub: [shop]", "hub: [shop], hubs: 1", ":2: `vault`: unknown field `hubs`"),
        ("hub_shop", "hub: [shop]", "hub: shop", ":2: `vault`: `hub`: 'shop' is wrong; write a list of the business"),
        ("hub_shop", "hub: [shop]", "hub: [shops]", "`vault`: vault.stage has no column shops"),
        ("hub_shop", "stage: vault.stage", "stage: vault.hub_shop", "vault.hub_shop is no table of days"),
        ("hub_shop", "stage: vault.stage", "stage: vault.stages", "did you mean vault.stage?"),
        ("hub_shop", "stage: vault.stage", "stage: vault.hub_till", "vault.hub_till is no table of days"),
        ("hub_shop", "name: shop,", "name: shops,", "shops is no column of vault.stage"),
        ("hub_shop", "about: Shops.", "about: Shops.\nkept_by: [shop]", ":2: `kept_by` follows from `vault`: remove"),
        ("hub_shop", ENDS, ENDS.splitlines()[1] + "\n", "the last two columns of a table of a vault are load_date"),
        ("sat_shop", "  - {name: effective_from, type: timestamp}\n", "", "is effective_from: from when on"),
        ("sat_shop", "satellite: hub_shop", "satellite: link_till_shop", "vault.link_till_shop is no hub"),
        ("link_till_shop", "[hub_till, hub_shop]", "[hub_till, hub_tent]", "there is no table 'vault.hub_tent'"),
        ("link_till_shop", "sources:", "optional: [hub_x], sources:", "`optional` names hubs of a `link`"),
        ("link_till_shop", "sources:", "implied_by: tills, sources:", "`implied_by` is of a transactional link"),
        ("link_till_shop", "[tills]", "[\"x' or '1'='1\"]", "is wrong; write a list of record sources"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_file_and_cure(
    project: Project, file: str, old: str, new: str, problem: str
) -> None:
    text = FILES[f"vault/{file}.yaml"]
    assert old in text
    project({**FILES, f"vault/{file}.yaml": text.replace(old, new)})
    with pytest.raises(ContractError) as caught:
        contracts.get(f"vault.{file}")
    message = str(caught.value)
    assert problem in message, message
    assert all(f"vault/{file}.yaml:" in line for line in message.splitlines())


def test_a_file_beside_a_declaration_is_one_too_many(project: Project) -> None:
    project({**FILES, "vault/hub_shop.sql": "select 1 as x\n"})
    assert "remove hub_shop.sql, or `vault`" in lineage.broken()["vault.hub_shop"]
