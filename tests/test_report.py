"""`report`: its figures, its page, what hostile names can do to it, and what a real browser makes of it."""

import base64
import hashlib
import json
import os
import pathlib
import re
import stat
import zlib
from collections import Counter
from html.parser import HTMLParser
from random import Random

import browser
import pytest
from cluster_model import START_NS, Cluster
from counts import counts
from hypothesis import given
from hypothesis import strategies as st
from running import BUSY_SECONDS, ROOT, review

from function.__main__ import main
from function.commands.report import ROWS_MAX
from function.history.gaps import gap_of
from function.history.objects import steps
from function.record import reading
from function.record.observation import Manager, Observation, ObservedResource
from function.record.review_format import ReviewFormat
from function.report.figures import KEYS_MAX, LISTED_MAX, FailedOpen, Figures, Tally
from function.report.page import Context, page
from function.report.rows import MARKS, VERBS, shown
from function.review import decode

GOLDEN = pathlib.Path(__file__).parent / "golden" / "report.html"
NATIVE = ROOT / "tests" / "data" / "native-audit.ndjson"
SECOND_NS = 10**9
BEGIN_NS = 1_790_000_000 * SECOND_NS  # 2026-09-21T14:13:20Z
WEBHOOK = "kube-audit-function.kube-audit-function.svc"
RBAC = "rbac.authorization.k8s.io"

LONG = "n" * 253
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "\"'><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "\u202egnp.exe\u202c",
    "שלום עולם",
    "a\u200bb\u0000c\u0085d",
    "👩‍🚀🔥",
    "%0a#?user=x&mark=secret",
    "__proto__",
    "\\u202e",
    LONG,
)


def line(number, *, cluster="", at_ns=None, degraded=None, **request):
    """Return a line of a journal, received so many seconds after the beginning."""
    if "resource" in request:
        group, resource = request["resource"]
        request["resource"] = {"group": group, "version": "v1", "resource": resource}
    at_ns = BEGIN_NS + number * SECOND_NS if at_ns is None else at_ns
    text = ReviewFormat().render(
        decode(review(f"uid-{number}", **request)),
        level="Request",
        received_ns=at_ns,
        now_ns=at_ns,
        cluster=cluster,
        changes=None,
    )
    return (
        text
        if degraded is None
        else text.replace(b'{"kind"', b'{"degraded":{"reason":"%b","bytes":9,"sha256":"0"},"kind"' % degraded, 1)
    )


def user(name):
    return {"username": name, "groups": ["system:authenticated"]}


def small():
    """Return a journal of what a report is about, one of each."""
    binding = {
        "kind": "ClusterRoleBinding",
        "roleRef": {"kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "name": "mallory"}],
    }
    role = {"kind": "Role", "rules": [{"verbs": ["*"], "resources": ["*"]}, {"verbs": ["get"], "resources": ["pods"]}]}
    options = {"kind": "PodExecOptions", "container": "web", "command": ["sh", "-c", "id"]}
    return [
        line(0, name="settings", userInfo=user("alice")),
        line(1, name="settings", userInfo=user("alice"), operation="UPDATE"),
        line(100, name="keys", namespace="shop", resource=("", "secrets"), userInfo=user("alice")),
        line(110, name="web", namespace="shop", resource=("", "pods"), subResource="exec", operation="CONNECT",
             object=options, userInfo=user("mallory")),
        line(120, name="grab", namespace="", resource=(RBAC, "clusterrolebindings"), object=binding,
             userInfo=user("mallory")),
        line(130, name="grab", namespace="shop", resource=(RBAC, "roles"), object=role, userInfo=user("mallory")),
        line(140, name="keys", namespace="shop", resource=("", "secrets"), operation="DELETE", object=None,
             userInfo=user("mallory")),
        line(150, name="tried", dryRun=True, operation="DELETE", userInfo=user("alice")),
        line(160, name="big", degraded=b"too_large", userInfo=user("alice")),
        line(170, name="settings", cluster="west", userInfo=user("alice")),
    ]  # fmt: skip


def figures_of(lines, since_ns=BEGIN_NS + 60 * SECOND_NS, until_ns=BEGIN_NS + 300 * SECOND_NS, **options):
    made = Figures(since_ns, until_ns, **options)
    for one in lines:
        made.add(reading.read(one))
    return made


def written(figures, failed_open=None):
    total = len(failed_open or ())
    return page(figures, Context(BEGIN_NS + 400 * SECOND_NS, "0.0.0", BEGIN_NS, failed_open, total))


def rows_of(text):
    """Return the columns that the page holds."""
    found = re.search(r'<script id="data"[^>]*>([A-Za-z0-9+/=]*)</script>', text)
    return json.loads(zlib.decompress(base64.b64decode(found[1])))


def column(columns, name):
    return [columns[name]["texts"][number] for number in columns[name]["numbers"]]


def journal(folder, lines):
    writer = folder / "replica0-20260921T141320Z-00000000"
    writer.mkdir(parents=True)
    (writer / f"audit-{1:020d}.ndjson").write_bytes(b"".join(lines))
    return folder


# -- figures ----------------------------------------------------------------------------------------------------------


def test_each_thing_is_counted_once_and_where_it_belongs():
    figures = figures_of(small())
    assert figures.total == 8
    assert figures.marks == {
        "session": 1, "rbac": 2, "secret": 2, "delete": 1, "dry-run": 1, "degraded": 1, "first": 6,
    }  # fmt: skip
    assert figures.verbs == {"create": 5, "connect": 1, "delete": 2}
    assert figures.users.most(9) == [("alice", 4), ("mallory", 4)]
    assert figures.secrets.most(9) == [(("-", "shop", "keys"), 2)]
    assert figures.clusters["west"] == {"records": 1, "first": 1}
    assert [first.row.user for first in figures.first_accounts] == ["mallory", "alice"]  # alice is new on west
    details = {row.detail for rows in figures.lists.values() for row in rows} - {""}
    assert details == {
        "sh -c id in container web",
        "ClusterRole cluster-admin to User mallory",
        "* *; get pods",
        "degraded: too_large",
    }


def test_where_the_journal_begins_in_the_time_nothing_is_called_new():
    figures = figures_of(small(), since_ns=BEGIN_NS)
    assert (figures.knows_past, figures.marks["first"]) == (False, 0)
    assert "nothing earlier tells what is new" in written(figures)


def test_what_a_watch_saw_is_a_row_of_no_account():
    about = ObservedResource("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations")
    seen = Observation("o", "updated", True, about, "ours", managers=(Manager("helm"),))
    before, after = (seen.line(observed_ns=BEGIN_NS + at * SECOND_NS, cluster="") for at in (30, 200))
    figures = figures_of([before, *small(), after])
    assert figures.total == 9
    assert figures.users.most(9) == [("alice", 4), ("mallory", 4)]
    assert figures.marks["first"] == 6
    assert [row.detail for row in figures.rows.rows() if row.name == "ours"] == [
        "updated, as a watch saw; field manager helm"
    ]
    assert "ours" in str(rows_of(written(figures)))


@counts(20, 500)
def test_figures_equal_a_naive_recomputation(count):
    random = Random(20)
    for _ in range(count):
        compare_with_the_naive(random.randrange(2**32), random.randrange(60), random.randrange(200))


def compare_with_the_naive(seed, before, length):
    cluster = Cluster(seed)
    lines = [
        ReviewFormat().render(
            decode(one.body()), level="Request", received_ns=one.received_ns, now_ns=0, cluster="", changes=None
        )
        for one in cluster.run(60)
    ]
    records = sorted(map(reading.read, lines), key=lambda record: record.received_ns)
    since_ns = START_NS + before * 60 * SECOND_NS
    until_ns = since_ns + (length + 1) * 60 * SECOND_NS
    figures = Figures(since_ns, until_ns)
    for record in records:
        figures.add(record)
    for step in steps(records):
        if (gap := gap_of(step)) is not None:
            figures.add_gap(gap)
    counted = [record for record in records if since_ns <= record.received_ns < until_ns]
    earlier = [record for record in records if record.received_ns < since_ns]
    assert figures.total == len(counted) == sum(map(sum, figures.activity.values()))
    assert dict(figures.users.most(99)) == Counter(record.user for record in counted)
    assert dict(figures.namespaces.most(99)) == Counter(("-", record.object.namespace or "-") for record in counted)
    for verb in VERBS[:5]:
        naive = [0] * len(figures.activity[verb])
        for record in counted:
            naive[(record.received_ns - since_ns) // (figures.width_seconds * SECOND_NS)] += record.verb == verb
        assert figures.activity[verb] == naive
    real = [record for record in counted if not record.dry_run]
    assert figures.marks["rbac"] == sum(record.object.group == RBAC for record in real)
    assert figures.marks["delete"] == sum(record.operation == "DELETE" for record in real)
    did = {did_of(record) for record in earlier}
    new = list(dict.fromkeys(did_of(record) for record in counted if did_of(record) not in did))
    assert figures.marks["first"] == (len(new) if earlier else 0)


def did_of(record):
    about = record.object
    return record.user, about.group, about.resource, about.subresource, about.namespace


@given(st.lists(st.integers(0, 30)), st.integers(1, 10))
def test_a_tally_forgets_only_rare_keys_and_counts_them(keys, most):
    tally = Tally(most)
    for key in keys:
        tally.add(key)
    assert len(tally) <= 2 * most
    assert sum(count for _, count in tally.most(99)) + tally.forgotten == len(keys)
    if len(set(keys)) <= 2 * most:
        assert dict(tally.most(99)) == Counter(keys)


def test_rows_beyond_the_bound_are_counted_and_marked_ones_stay():
    lines = [*small(), *(line(200, name=f"n{number}", userInfo=user("alice")) for number in range(50))]
    figures = figures_of(lines, rows_max=20)
    columns = rows_of(written(figures))
    assert (figures.total, len(columns["at"]), figures.rows.left_out) == (58, 20, 38)
    assert sum(marks > 0 for marks in columns["marks"]) == 8  # all but the plain ones
    assert "38 of 58 records" in written(figures)


@pytest.mark.long
def test_the_page_is_never_larger_than_5_mb_whatever_the_names():
    random = Random(1)
    figures = Figures(BEGIN_NS, BEGIN_NS + 3600 * SECOND_NS)
    for number in range(30_000):
        name = random.randbytes(126).hex()
        figures.rows.add(figures_row(name, number))
    text = written(figures)
    assert 4_000_000 < len(text) < 5_000_000
    assert 20_000 < len(rows_of(text)["at"]) < 30_000
    assert figures.rows.left_out


def figures_row(name, number):
    from function.report.rows import Row  # noqa: PLC0415 - only here

    return Row(BEGIN_NS // 10**6 + number, "-", "create", "alice", "configmaps", "default", name, 0, "")


# -- the page ---------------------------------------------------------------------------------------------------------


def comparable(text):
    """Return the page without what has its own tests: styles, script, hashes; its rows as JSON."""
    text = re.sub(r"<style>.*?</style>", "<style></style>", text, flags=re.DOTALL)
    text = re.sub(r"<script>.*?</script>", "<script></script>", text, flags=re.DOTALL)
    text = re.sub(r"sha256-[A-Za-z0-9+/=]+", "sha256-…", text)
    rows = json.dumps(rows_of(text), indent=1, ensure_ascii=False)
    return re.sub(r'(<script id="data"[^>]*>)[^<]*', lambda found: found[1] + "\n" + rows + "\n", text)


def golden_page():
    lost = FailedOpen(BEGIN_NS + 145 * SECOND_NS, "create", "mallory", "pods", "shop", "miner")
    return comparable(written(figures_of(small()), [lost]))


def test_golden_page():
    """After a change that is meant: `python tests/test_report.py`, and read the difference."""
    assert golden_page() == GOLDEN.read_text("utf-8")


class Parsed(HTMLParser):
    """The tags and attributes of a page, and the text between."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.texts = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_policy_allows_this_script_and_these_styles_and_nothing_else():
    text = written(figures_of(small()))
    parsed = Parsed(text)
    (policy,) = [a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    script, style = (re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1] for tag in ("script", "style"))
    hashes = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in (script, style)]
    assert policy == (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'"
    )
    first = next(number for number, (tag, _) in enumerate(parsed.tags) if tag in ("script", "style", "title"))
    assert any("http-equiv" in attributes for _, attributes in parsed.tags[:first])  # it is in force before all else


def test_nothing_in_the_page_leads_out_of_it():
    text = written(figures_of([*small(), *hostile()]), [FailedOpen(BEGIN_NS, *HOSTILE[:5])])
    for tag, attributes in Parsed(text).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "image", "use"), tag
        assert not attributes.keys() & {"src", "srcset", "style", "action", "xlink:href"}, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert attributes.get("href", "#").startswith("#"), attributes
    own = (ROOT / "function" / "report").glob("page.*")
    assert {address for path in own for address in re.findall(r"https?://[^\"' ]+", path.read_text())} == {
        "http://www.w3.org/2000/svg"
    }
    assert "url(" not in text
    assert "@import" not in text


def hostile():
    """Return records with each hostile text in each place that a client fills."""
    for number, text in enumerate(HOSTILE, start=100):
        yield line(number, name=text, namespace=text, cluster=text, userInfo=user(text), resource=("", "secrets"))
        yield line(number, name=text, namespace=text, userInfo=user(text), resource=("", "pods"), subResource="exec",
                   operation="CONNECT", object={"container": text, "command": [text]})  # fmt: skip
        yield line(number, name="x", namespace=text, userInfo=user(text), resource=(text, text), operation="DELETE")
        binding = {"roleRef": {"kind": text, "name": text}, "subjects": [{"kind": "User", "name": text}]}
        yield line(number, name=text, resource=(RBAC, "rolebindings"), object=binding)


def test_hostile_names_stay_text():
    text = written(figures_of([*small(), *hostile()]))
    harmless = Parsed(written(figures_of([*small(), line(101, name="x", userInfo=user("bob"))])))
    parsed = Parsed(text)
    assert sum(tag == "script" for tag, _ in parsed.tags) == 2
    assert {tag for tag, _ in parsed.tags} <= {tag for tag, _ in harmless.tags} | {"ul", "li"}
    assert "alert(1)" in "".join(parsed.texts)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\u0000\u0085]", text)
    assert "49" not in "".join(re.findall(r"\{\{ ?7.*?\}\}", text))
    columns = rows_of(text)
    names = set(column(columns, "name"))
    assert {LONG, "שלום עולם", "\\u202egnp.exe\\u202c", "\\\\u202e", HOSTILE[0]} <= names


@given(st.text(max_size=400), st.text(max_size=400))
def test_what_is_shown_is_printable_bounded_and_tells_texts_apart(one, other):
    for text in (one, other):
        assert shown(text).isprintable()
        assert 0 < len(shown(text)) <= 300
    assert (shown(one) == shown(other)) == (one == other) or "-" in (one, other)


# -- the command ------------------------------------------------------------------------------------------------------


def run(capfdbinary, *arguments):
    code = main(["report", *map(str, arguments)])
    out, err = capfdbinary.readouterr()
    return code, out.decode(), err.decode()


TIMES = ("--since", "2026-09-21T14:14:20Z", "--until", "2026-09-21T14:18:20Z")


def test_the_file_is_written_whole_and_for_its_owner_alone(tmp_path, capfdbinary):
    file = tmp_path / "audit.html"
    code, out, err = run(capfdbinary, "--journal", journal(tmp_path / "j", small()), *TIMES, "-o", file)
    assert (code, out) == (0, "")
    assert err.startswith(f"kube-audit-function: {file}: 8 records, 0.")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["audit.html", "j"]
    code, out, _ = run(capfdbinary, "--journal", tmp_path / "j", *TIMES)
    assert (code, rows_of(out)) == (0, rows_of(file.read_text()))
    assert "no log of the API server was joined" in out


def test_what_is_there_to_be_said_where_there_is_no_report(tmp_path, capfdbinary):
    there = journal(tmp_path / "j", small())
    code, out, err = run(capfdbinary, "--journal", there, "--since", "2027-01-01", "--until", "2027-01-02")
    assert (code, out) == (1, "")
    assert "hint: an earlier --since" in err
    code, _, err = run(capfdbinary, "--journal", there, "-o", tmp_path / "no" / "a.html", *TIMES)
    assert code == 2
    assert str(tmp_path / "no") in err
    code, _, err = run(capfdbinary, "--journal", there, "--native", tmp_path / "none", *TIMES)
    assert code == 2
    assert "none" in err
    code, _, err = run(capfdbinary, "--journal", there, "--rows", "many")
    assert code == 2
    assert "'many' is not a number of rows" in err


def test_gaps_are_those_of_the_command_gaps(tmp_path, capfdbinary):
    cluster = Cluster(5)
    lines = [
        ReviewFormat().render(
            decode(one.body()), level="Request", received_ns=one.received_ns, now_ns=0, cluster="", changes=None
        )
        for one in cluster.run(120)
    ]
    there = journal(tmp_path / "j", [text for number, text in enumerate(lines) if number % 9])
    code = main(["gaps", "--journal", str(there)])
    out, _ = capfdbinary.readouterr()
    count = int(re.search(rb"(\d+) gaps in the history", out)[1])
    assert (code, count > 3) == (1, True)
    code, out, _ = run(capfdbinary, "--journal", there, "--since", "2026-01-01", "--until", "2027-01-01")
    assert code == 0
    assert f'<h2 id="h-gaps">Gaps: {count}</h2>' in out


def test_a_joined_log_tells_what_failed_open(tmp_path, capfdbinary):
    """A request of the recorded log, with the note of an API server that went on without the webhook."""
    events = [json.loads(text) for text in NATIVE.read_text().splitlines()]
    event = next(one for one in events if one["verb"] == "create" and one["objectRef"]["resource"] == "configmaps")
    note = {"failed-open.validating.webhook.admission.k8s.io/round_0_index_0": WEBHOOK}
    native = tmp_path / "native.json"
    native.write_text(json.dumps(event | {"annotations": event["annotations"] | note}) + "\n")
    at_ns = reading.read(json.dumps(event).encode()).received_ns
    there = journal(tmp_path / "j", [line(1, at_ns=at_ns + SECOND_NS, name="other")])
    day = event["requestReceivedTimestamp"][:10]
    times = ("--since", f"{day}T00:00:00Z", "--until", f"{day}T23:59:59Z")
    code, out, err = run(capfdbinary, "--journal", there, "--native", native, *times)
    assert code == 0, err
    assert "1 request went on without a record" in out
    assert re.search(rf"<bdi>{event['user']['username']}</bdi></a></td><td>create</td><td><bdi>configmaps</bdi>", out)
    native.write_text(json.dumps(event) + "\n")
    code, out, _ = run(capfdbinary, "--journal", there, "--native", native, *times)
    assert "None: the API server's log that was joined" in out


# -- a real browser ---------------------------------------------------------------------------------------------------

in_chromium = pytest.mark.skipif(browser.found() is None, reason="no Chromium on the PATH; CHROMIUM=… names one")


@pytest.fixture(scope="module")
def chromium():
    with browser.browser() as started:
        yield started


@pytest.fixture
def report(tmp_path):
    """The page of a journal with everything in it, as a file's address."""
    file = tmp_path / "audit.html"
    more = line(180, name="keys-2", namespace="shop", resource=("", "secrets"))
    file.write_text(written(figures_of([*small(), *hostile(), more]), [FailedOpen(BEGIN_NS, *HOSTILE[:5])]))
    return file.as_uri()


STATUS = "document.getElementById('status').textContent"
BARS = "document.querySelectorAll('#bars rect').length"


@in_chromium
def test_it_opens_without_a_complaint_and_asks_for_nothing(chromium, report):
    page = chromium.page()
    page.open(report)
    assert "in this page" in page.value(STATUS)
    assert page.value("window.alert = () => document.title = 'hacked', 1")
    page.value("document.querySelectorAll('main a').forEach(link => link.click())")
    page.wait("location.hash !== ''")
    assert page.value("document.title").startswith("Audit report")
    assert page.complaints() == []
    assert [address.partition("#")[0] for address in set(page.requests())] == [report]


FOLLOW = """(async () => {
  const found = [];
  for (const link of document.querySelectorAll('main a[href^="#?"]')) {
    const count = link.textContent.replaceAll(',', '').match(/^\\s*(\\d+)(?=$| |\\s)|^[a-z]+ (\\d+)$/);
    if (!count || link.closest('#list-session tbody')) continue;
    if (link.getAttribute('href') === location.hash) continue;
    const moved = new Promise(done => addEventListener('hashchange', done, { once: true }));
    link.click();
    await moved;
    const told = document.getElementById('status').textContent.replaceAll(',', '').match(/(\\d+) records/);
    found.push([link.getAttribute('href'), Number(count[1] ?? count[2]), Number(told[1])]);
  }
  return found;
})()"""


@in_chromium
@pytest.mark.long
def test_a_number_leads_to_its_rows(chromium, report):
    page = chromium.page()
    page.open(report)
    followed = page.value(FOLLOW)
    assert len(followed) > 60
    assert [one for one in followed if one[1] != one[2]] == []
    assert page.value("document.activeElement.id") == "h-rows"


@in_chromium
def test_filters_narrow_the_rows_and_the_address_keeps_them(chromium, report):
    page = chromium.page()
    page.open(report)
    page.value("document.forms.filters.elements.user.focus()")
    for character in "mallory":
        page.press(character)
    page.wait(f"{STATUS}.includes('of 4 records')")
    assert page.value("location.hash") == "#?user=mallory"
    page.value("location.hash = '#?user=mallory&mark=rbac'")
    page.wait(f"{STATUS}.includes('of 2 records')")
    assert page.value("document.forms.filters.elements.mark.value") == "rbac"
    page.value("history.back()")
    page.wait(f"{STATUS}.includes('of 4 records')")
    page.value("document.querySelector('[type=reset]').click()")
    page.wait(f"document.forms.filters.elements.user.value === '' && !{STATUS}.includes('of 4 records')")
    assert page.complaints() == []


@in_chromium
def test_the_chart_zooms_by_key_by_button_and_by_mouse(chromium, report):
    page = chromium.page()
    page.open(report)
    all_of_it = page.value(STATUS)
    page.value("document.getElementById('chart').focus()")
    page.press("+")
    page.wait(f"{STATUS}.includes(' from 2026')")
    zoomed = page.value(STATUS)
    page.press("ArrowRight")
    page.wait(f"{STATUS} !== {json.dumps(zoomed)}")
    page.press("0")
    page.wait(f"{STATUS} === {json.dumps(all_of_it)}")
    page.value("document.querySelector('[data-do=in]').click()")
    page.wait(f"{STATUS}.includes(' from 2026')")
    page.value("document.querySelector('[data-do=all]').click()")
    page.wait(f"{STATUS} === {json.dumps(all_of_it)}")
    page.value("document.getElementById('chart').scrollIntoView()")
    box = page.value(
        "(b => [b.left, b.top, b.width, b.height])(document.querySelector('#chart svg').getBoundingClientRect())"
    )
    left, top, width, height = box
    page.drag((left + width * 0.2, top + height / 2), (left + width * 0.4, top + height / 2))
    page.wait(f"{STATUS}.includes('from 2026-09-21 14:15:08 to 2026-09-21 14:15:56')")
    assert page.value(BARS) > 0
    assert page.complaints() == []


@in_chromium
@pytest.mark.long
def test_everything_is_reached_by_tab(chromium, report):
    page = chromium.page()
    page.open(report)
    reached = set()
    for _ in range(60):
        page.press("Tab")
        reached.add(
            page.value("document.activeElement.id || document.activeElement.name || document.activeElement.dataset.do")
        )
    assert {
        "chart",
        "in",
        "out",
        "left",
        "right",
        "all",
        "user",
        "verb",
        "kind",
        "namespace",
        "mark",
        "text",
    } <= reached


@in_chromium
def test_on_a_phone_nothing_is_wider_than_the_screen(chromium, report):
    page = chromium.page(390, 844, dark=True)
    page.open(report)
    assert page.value("document.documentElement.scrollWidth") <= 390
    assert page.value("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"


@in_chromium
@pytest.mark.long
def test_on_paper_nothing_is_cut_off(chromium, report):
    page = chromium.page(740, 1000)
    page.open(report)
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.value("document.documentElement.scrollWidth") <= 740
    assert page.value("getComputedStyle(document.forms.filters).display") == "none"


@in_chromium
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing(chromium, report, dark):
    axe = os.environ.get("AXE_JS")
    if not axe:
        pytest.skip("AXE_JS names no axe.min.js of the package axe-core")
    page = chromium.page(dark=dark)
    page.open(report)
    page.value(pathlib.Path(axe).read_text() + ";1")
    found = page.value("axe.run().then(r => [r.violations.map(v => [v.id, v.nodes[0].html]), r.passes.length])")
    assert found[0] == []
    assert found[1] > 15


@in_chromium
@pytest.mark.long
def test_100_000_records_are_below_5_mb_and_open_within_2_seconds(chromium, tmp_path):
    random = Random(7)
    figures = Figures(BEGIN_NS, BEGIN_NS + 86400 * SECOND_NS, rows_max=ROWS_MAX)
    for number in range(100_000):
        name = f"web-{random.randbytes(5).hex()[:10]}-{random.randbytes(3).hex()[:5]}"
        one = line(
            number,
            at_ns=BEGIN_NS + number * 86400 * 10_000 + random.randrange(10**8),
            name=name,
            namespace=f"team-{random.randrange(60)}",
            resource=("", random.choice(["pods", "configmaps", "secrets", "services"])),
            userInfo=user(f"system:serviceaccount:team-{random.randrange(60)}:deployer"),
        )
        figures.add(reading.read(one))
    file = tmp_path / "audit.html"
    file.write_text(written(figures))
    assert file.stat().st_size < 5_000_000
    assert figures.rows.left_out == 0
    page = chromium.page()
    seconds = page.open(file.as_uri())
    print(f"{file.stat().st_size / 1e6:.2f} MB, ready after {seconds:.2f} s")
    assert seconds < 2 + BUSY_SECONDS


@pytest.mark.long
def test_lists_are_bounded():
    figures = figures_of(line(100, name=f"n{number}", resource=("", "secrets")) for number in range(LISTED_MAX + 50))
    assert figures.marks["secret"] == LISTED_MAX + 50
    assert {len(rows) for rows in figures.lists.values()} == {0, LISTED_MAX}
    assert "The 200 most written of 250" in written(figures)
    assert KEYS_MAX > LISTED_MAX
    assert len(MARKS) == 8


if __name__ == "__main__":
    GOLDEN.write_text(golden_page(), "utf-8")
