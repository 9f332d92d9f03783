"""Personal data: found in every spelling and surrounding, and next to nothing else is."""

import base64
import ipaddress
import json
import os
import random
import string
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest

from lm.data.corpus.documents import Document
from lm.data.corpus.files import decode
from lm.errors import UserError

phonenumbers = pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

from lm.data.corpus.steps.personal import KINDS, PersonalData  # noqa: E402

ALPHANUMERIC = string.ascii_letters + string.digits
ENGLISH = [" {} ", " ({}) ", " {}, ", " <{}>.", ' "{}" ', "\n{}\n", ": {}; ", " [{}]\r\n", "\t{}\t", " |{}| "]
CHINESE = [
    "，{}，",
    "（{}）",
    "：{}。",
    "“{}”",
    "《{}》",
    "、{}；",
    "是{}的",
    "】{}\n",
    " {}！",
    "\u3000{}\u3000",
]


def masked(text: str, **options) -> str:
    document = Document(text)
    assert PersonalData(**options)(document) is None
    return document.text


def some_of(rng: random.Random, letters: str, least: int, most: int | None = None) -> str:
    return "".join(rng.choices(letters, k=rng.randint(least, most or least)))


def email(rng: random.Random) -> str:
    words = [some_of(rng, string.ascii_lowercase + string.digits, 1, 9) for _ in range(rng.randint(1, 3))]
    host = ".".join(some_of(rng, string.ascii_lowercase, 2, 9) for _ in range(rng.randint(1, 3)))
    end = rng.choice(["com", "org", "net", "edu", "cn", "de", "co.uk", "com.cn", "io", "info", "xyz"])
    address = f"{rng.choice('._-+').join(words)}@{host}.{end}"
    return rng.choice([address, address, address.upper(), address.title()])


def telephone(rng: random.Random) -> str:
    """A number that some plan gives out, in one of its usual spellings."""
    region, forms = rng.choice(
        [
            ("US", ["(###) ###-####", "(###)###-####", "###-###-####", "###.###.####", "1-###-###-####"]),
            (
                "US",
                ["+1 ### ### ####", "+1-###-###-####", "+1 (###) ###-####", "+1##########", "### ### ####"],
            ),
            ("US", ["001-###-###-####", "1 (###) ###-####", "###-###-#### ext. 12", "+1.###.###.####"]),
            ("GB", ["0## #### ####", "0##########", "(0##) #### ####", "0#### ######", "0#### ### ###"]),
            ("GB", ["+44 ## #### ####", "+44 (0)## #### ####", "+44##########", "0044 #### ######"]),
            ("GB", ["0###-###-####", "(0####) ######", "+44-####-######", "(+44) #### ######"]),
            ("CN", ["1##########", "1## #### ####", "1##-####-####", "+861##########", "+86 1## #### ####"]),
            ("CN", ["+86-1##-####-####", "(+86)1##########", "(+86) 1## #### ####", "00861##########"]),
            ("CN", ["010-########", "010 ########", "(010)########", "（010）########", "+86-10-########"]),
            ("CN", ["0755-########", "0755########", "0571-#### ####", "+86 21 #### ####", "021－########"]),
            ("DE", ["+49 30 #######", "+49 (0)89 ########", "+49-171-#######", "0049 30 ########"]),
            ("FR", ["+33 # ## ## ## ##", "+33#########", "0033 6 ## ## ## ##"]),
            ("JP", ["+81-3-####-####", "+81 90-####-####"]),
        ]
    )
    form = rng.choice(forms)
    while True:
        number = "".join(rng.choice(string.digits) if sign == "#" else sign for sign in form)
        plain = number.partition(" ext")[0]
        plain = f"+{plain[2:]}" if form.startswith("00") else plain
        with suppress(phonenumbers.NumberParseException):
            if phonenumbers.is_valid_number(phonenumbers.parse(plain, region)):
                return number


def address(rng: random.Random) -> str:
    while True:
        if rng.random() < 0.5:
            found = ipaddress.ip_address(rng.getrandbits(32))
            if found.is_global and not found.is_multicast:
                return str(found)
        else:
            zeros = rng.choice([0, 16, 64])  # bits in the middle, so that it has a short form
            host = rng.getrandbits(64 - zeros if zeros < 64 else 8)
            found = ipaddress.ip_address((0x2400 << 112) + (rng.getrandbits(96) >> 64 << 64) + host)
            if found.is_global:
                return rng.choice([str(found), found.exploded, str(found).upper()])


def identity(rng: random.Random) -> str:
    place = rng.choice(["110101", "310104", "440305", "510107", "360426", "120103", "330106", "420106"])
    day = f"{rng.randint(1930, 2015)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}"
    digits = f"{place}{day}{rng.randrange(1, 1000):03d}"
    weighted = sum(int(digit) * 2 ** (17 - place) for place, digit in enumerate(digits))
    last = "10X98765432"[weighted % 11]
    digits += last.replace("X", rng.choice("Xx"))
    return rng.choice([digits, digits, f"{digits[:6]} {digits[6:14]} {digits[14:]}"])


def card(rng: random.Random) -> str:
    lengths = {"4": 16, "5123": 16, "2221": 16, "34": 15, "37": 15, "6011": 16, "3530": 16, "36": 14}
    lengths |= {"62": rng.randint(16, 18), "6222": 19}
    start, length = rng.choice(list(lengths.items()))
    digits = start + some_of(rng, string.digits, length - 1 - len(start))
    doubled = (int(digit) * (2 - place % 2) for place, digit in enumerate(reversed(digits)))
    digits += str(-sum(value // 10 + value % 10 for value in doubled) % 10)
    cuts = {16: [4, 8, 12], 15: [4, 10], 14: [4, 10], 19: rng.choice([[4, 8, 12, 16], [6]])}.get(length, [])
    parts = [digits[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    return rng.choice(["", " ", "-"]).join(parts)


def key(rng: random.Random) -> str:
    def code(start: str, length: int, letters: str = ALPHANUMERIC) -> str:
        return start + some_of(rng, letters, length)

    def block() -> str:
        name = rng.choice(["RSA ", "EC ", "OPENSSH ", "", "ENCRYPTED "])
        lines = base64.encodebytes(rng.randbytes(rng.randint(100, 1200))).decode()
        head = rng.choice(["", "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0A1B\n\n"])
        lines = f"-----BEGIN {name}PRIVATE KEY-----\n{head}{lines}-----END {name}PRIVATE KEY-----"
        return rng.choice([lines, lines.replace("\n", "\r\n"), lines.replace("\n", "\\n")])

    def token() -> str:
        parts = (base64.urlsafe_b64encode(json.dumps({"a": code("", 20)}).encode()).decode() for _ in "12")
        return ".".join([*(part.rstrip("=") for part in parts), code("", 43, f"{ALPHANUMERIC}-_")])

    start = rng.choice(["ghp_", "gho_", "ghs_"])
    capitals = string.ascii_uppercase + string.digits
    return rng.choice(
        [
            code("AKIA", 16, capitals),
            code(start, 36),
            code("github_pat_", 22) + code("_", 59),
            code("sk-", 48),
            code("sk-proj-", 48, f"{ALPHANUMERIC}-_") + "0a",
            code("sk-ant-api03-", 93, f"{ALPHANUMERIC}-_") + "-0aAA",
            code("sk-", 32, "0123456789abcdef"),
            code("AIza", 34, f"{ALPHANUMERIC}-_") + "a",
            f"xoxb-{code('', 11, string.digits)}-{code('', 12, string.digits)}-{code('', 24)}",
            code("sk_live_", 24),
            token(),
            code("hf_", 34),
            block(),
        ]
    )


MAKERS = {"KEY": key, "EMAIL": email, "IP": address, "ID": identity, "CARD": card, "PHONE": telephone}


@pytest.fixture
def planted(sources) -> Callable[[str], Iterator[tuple[str, str, str]]]:
    """Values of a kind in English and Chinese texts: what stands before, the value, what stands after."""
    texts = []
    for language in ("en", "zh"):
        articles = json.loads((sources / f"xquad/xquad.{language}.json").read_text(encoding="utf-8"))["data"]
        texts.append("\n".join(part["context"] for one in articles for part in one["paragraphs"]))

    def plant(kind: str) -> Iterator[tuple[str, str, str]]:
        rng = random.Random(kind)
        for number in range(1000):
            text, places = (texts[number % 2], (ENGLISH, CHINESE)[number % 2])
            place = rng.randrange(len(text) - 200)
            left, right = places[number // 2 % len(places)].split("{}")
            before = text[place : place + 100].rstrip(string.digits + "+-(.") + left
            yield (
                before,
                MAKERS[kind](rng),
                right + text[place + 100 : place + 200].lstrip(string.digits + "-.)"),
            )

    return plant


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_planted_is_masked_and_nothing_around_it(kind, planted):
    step, missed = PersonalData(), []
    for before, value, after in planted(kind):
        document = Document(before + value + after)
        step(document)
        if document.text != f"{before}<{kind}>{after}":
            missed.append((value, document.text[80:-80]))
    assert len(missed) <= 10, missed
    assert step.counts()[kind] >= 990
    assert sum(step.counts().values()) <= 1010


def test_a_second_run_changes_nothing_more(planted):
    texts = [
        before + value * (1 + len(value) % 2) + after
        for kind in KINDS
        for before, value, after in planted(kind)
    ]
    texts += [" ".join(texts), "".join(texts)]
    for text in texts:
        once = masked(text)
        assert masked(once) == once
        assert once != text or masked(text) is text


def test_findings_are_where_masks_would_be(planted):
    """Places in the text as it was, however many of them there are and however close."""
    step, apart = PersonalData(), 0
    texts = [
        before + value * (1 + len(value) % 2) + after
        for kind in KINDS
        for before, value, after in planted(kind)
    ]
    texts += [" ".join(texts[:2000]), "", "nothing at all"]
    for text in texts:
        rest, place = [], 0
        for kind, start, end in step.findings(text):
            assert place <= start < end
            rest += [text[place:start], f"<{kind}>"]
            place = end
        apart += "".join(rest) + text[place:] != masked(text)
    assert apart == 0
    assert not any(step.counts().values()), "nothing was masked"


STAYS = """
@pytest.fixture  class A:  x = a@b.T + self.x@self.weight  3 @-@ 4  user@host:/srv
git@github.com:owner/name.git
someone@example.com a.b@mail.example.org root@localhost someone@dom.test me@x icon@2x.png react@18.2.0
127.0.0.1 0.0.0.0 255.255.255.0 192.168.1.20 10.1.2.3 172.16.0.9
192.0.2.44 198.51.100.7 203.0.113.9 224.0.0.251
version 12.1.22.34, v10.20.30.40 pip==21.10.2.33 Chrome/87.0.42.88 lib-11.2.30.4.tar.gz 1.2.3.4 256.20.30.40
版本：10.2.33.4 第 12.3.4.10 节 1.3.6.1.4.1.311.21.20 12.34.56.78.90
::1 fe80::1 2001:db8::8a2e:370:7334 fc00::1 std::vector a[::2] x[2000::5] 20:15:30 2024:01:02:10:20:30
110101199003070012 110101199013070010 4111111111111112 4111 1111 1111 1112 1234567890123456 9780306406157
ISBN 978-0-306-40615-7, ISBN 0-306-40615-7, ISSN 0378-5955, 2024-01-31 12:30:45,
01-02-2003 10:15, 1999-2003
20240131123045 1700000000 1700000000000 3.14159265358979 0.13812345678 1,234,567,890 $2125551234 2147483647
+35236450.6 0123456789 01234567890 017777777777 202 555 0143 88
12 202 555 0143 550e8400-e29b-41d4-a716-446655440000
sk-cube-grid-and-its-many-columns-2 desk-1234567890 AKIAIOSFODNN7EXAMPLE hf_hub_download eyJhbGciOiJIUzI1NiJ9
task-0123456789abcdef0123456789abcdef0123456789abcdef
-----BEGIN PRIVATE KEY-----\n... (key in base64) ...\n-----END PRIVATE KEY----- -----BEGIN CERTIFICATE-----
"""


def test_what_only_looks_like_it_stays():
    for line in STAYS.splitlines():
        assert masked(line) is line
    assert masked(STAYS) is STAYS


def test_neighbours_and_nested_ones():
    assert masked("电话13812345678、13912345678/010-65529988转123") == "电话<PHONE>、<PHONE>/<PHONE>"
    assert (
        masked("13812345678 13912345678\n4111111111111111 5555555555554444")
        == "<PHONE> <PHONE>\n<CARD> <CARD>"
    )
    assert masked("phone: 2125552368, count 2125552368") == "phone: <PHONE>, count 2125552368"
    assert masked("https://someone:secret@host.org:80/ http://93.184.215.14/") == (
        "https://someone:<EMAIL>:80/ http://<IP>/"
    )
    assert masked("hf_" + "aB3" * 11 + " ghp_" + "aB3" * 12) == "<KEY> <KEY>"
    key = "-----BEGIN RSA PRIVATE KEY-----\n" + "0aB+" * 16 + "\n" + "4111" * 16
    assert masked(f"{key}\n\nThe end") == "<KEY>\n\nThe end"


def test_kinds_and_placeholder():
    text = "someone@host.org 13812345678"
    assert masked(text, kinds=["PHONE"], placeholder="[{kind} removed]") == "someone@host.org [PHONE removed]"
    assert masked(text, kinds=["EMAIL"], placeholder="") == " 13812345678"
    with pytest.raises(UserError, match="no NAME; there are KEY, EMAIL"):
        PersonalData(kinds=["NAME"])
    with pytest.raises(UserError, match="has a digit or an @ in it"):
        PersonalData(placeholder="nobody@host.org")


@pytest.mark.parametrize(
    ("module", "package"), [("phonenumbers", "phonenumbers"), ("stdnum", "python-stdnum")]
)
def test_a_missing_package_is_named(monkeypatch, module, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"needs {package}: pip install -e '\.\[corpus\]'"):
        PersonalData()


@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "1-",
        "1 ",
        "1.",
        "a@",
        "a@a.",
        "::",
        "2:",
        "-----BEGIN",
        "eyJ",
        "+1",
        "1(",
        "sk-",
        "-----BEGIN PRIVATE KEY-----",
    ],
)
def test_no_text_takes_long(unit):
    text = unit * (1_000_000 // len(unit))
    start = time.process_time()
    masked(text)
    assert time.process_time() - start < 1


def texts_of(name: str, folder: Path) -> Iterator[str]:
    if name == "imdb":
        with tarfile.open(folder / "imdb/aclImdb.tar.xz") as archive:
            reviews = (archive.extractfile(member) for member in archive if member.isfile())
            yield from (review.read().decode() for review in islice(reviews, 3000) if review)
    elif name == "c4":
        lines = (folder / "llamafactory-lm/c4_demo.jsonl").read_text(encoding="utf-8").splitlines()
        yield from (json.loads(line)["text"] for line in lines)
    elif name == "stdlib":  # tests hold addresses by the hundred
        files = sorted(Path(os.__file__).parent.glob("*.py"))
        yield from (file.read_text(encoding="utf-8") for file in files)
    else:
        files = [file for file in sorted((folder / name).rglob("*")) if file.suffix in (".txt", ".json")]
        yield from (decode(file.read_bytes())[0] for file in files)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("wikitext-2", {}),
        ("gutenberg", {"EMAIL": 3}),  # of Project Gutenberg's makers
        ("c4", {"EMAIL": 7, "PHONE": 24}),  # all true: 20 are a list of consecutive numbers
        ("imdb", {"EMAIL": 1}),  # of its maker
        ("chinese-classics", {}),
        ("chinese-poetry", {}),
        ("stdlib", None),  # another with each Python
    ],
)
def test_real_texts_hold_what_they_hold(name, golden, real_data):
    step, size, start = PersonalData(), 0, time.process_time()
    documents = [Document(text) for text in texts_of(name, real_data)]
    start = time.process_time()
    for document in documents:
        size += len(document.text.encode())
        step(document)
    assert (
        size / (time.process_time() - start) > 5e6
    )  # bytes a second; half of what is promised, for busy machines
    counts = +Counter(step.counts())
    if golden is None:  # authors' addresses, a few addresses in documentation
        emails = counts.pop("EMAIL")
        assert 20 < emails < 150
        assert counts.total() <= 10
    else:
        assert counts == golden
