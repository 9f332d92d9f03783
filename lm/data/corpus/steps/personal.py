"""Personal data and secrets in texts: found by shape, verified by checksum or numbering plan, masked."""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from importlib.util import find_spec

from lm.data.corpus.documents import Document, Step
from lm.errors import UserError, not_installed, some

Check = Callable[[str, int, int], int]  # text, start, end of a candidate -> its true end, 0 if it is none

# Every pattern begins with a literal or a plain set, which `re` searches fast, and looks back only then. What
# may not stand before or after is ASCII: between Chinese characters there are no blanks.
_MOST_PASSES = 8
_BEFORE = r"(?<![A-Za-z0-9_].)(?<![0-9][.\-].)"
_AFTER = r"(?![A-Za-z0-9_]|[.\-][0-9])"
_NINE_DIGITS = re.compile(r"[0-9](?:[^0-9A-Za-z\n]{0,2}[0-9]){8}")  # the fewest of PHONE, CARD and ID

_DOMAIN = re.compile(
    r"@((?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,8}(?:[A-Za-z]{2}|com|org|net|edu|gov|mil|int|info|biz|name|pro|"
    r"app|dev|xyz|top|site|online|club|shop|tech|cloud|email|mobi|coop|museum|asia|tel|jobs|travel|cat|eus|"
    r"world|today|live|news|blog|wiki|life|social|agency|company|solutions|digital|london|berlin|wang|vip|"
    r"xn--[a-z0-9-]{2,59}))(?![A-Za-z0-9_]|[.\-][A-Za-z0-9])",
    re.I,
)
_LOCAL = re.compile(r"[A-Za-z0-9_\u00c0-\u024f](?:[A-Za-z0-9_.%+\-\u00c0-\u024f]{0,62}[A-Za-z0-9_+\-])?\Z")
_RESERVED = re.compile(r"(?:.*\.)?(?:example\.(?:com|org|net|edu)|.*\.(?:example|test|invalid|local))", re.I)
_SCP = re.compile(r":(?!//|[0-9]+/)[\w.~-]*/")  # git@host.org:owner/name

_IPV4 = re.compile(rf"[1-9]{_BEFORE}(?<![A-Za-z][/\-].)[0-9]{{0,2}}(?:\.[0-9]{{1,3}}){{3}}{_AFTER}")
_IPV6 = re.compile(r"[23](?<![A-Za-z0-9_:.].)[0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![A-Za-z0-9_:])")
_VERSION = re.compile(
    r"(?:\b(?:v|ver|versions?|releases?|rev|revision|build|firmware|driver|kernel|sections?|sec|chapter)|"
    r"版本|版|第|节|§|[=~><!]=)[\s.:：号\"'(为是]{0,3}\Z",
    re.IGNORECASE,
)

_ID = re.compile(rf"[1-9]{_BEFORE}[0-9]{{5}}([ -]?)(?:18|19|20)[0-9]{{6}}\1[0-9]{{3}}[0-9XxＸ]{_AFTER}")
_CARD = re.compile(
    rf"[2-6]{_BEFORE}(?:[0-9]{{12,18}}|[0-9]{{3}}([ -])(?:[0-9]{{4}}\1){{2}}[0-9]{{4}}(?:\1[0-9]{{3}})?|"
    rf"[0-9]{{3}}([ -])[0-9]{{6}}\2[0-9]{{4,5}}|[0-9]{{5}}([ -])[0-9]{{10,13}}){_AFTER}"
)
_ISSUER = re.compile(  # American Express, Diners Club, UnionPay, Visa; Mastercard, Discover, JCB
    r"3[47]\d{13}|3(?:0[0-5]|[68]\d)\d{11}|62\d{14,17}|4(?:\d{12}|\d{15}|\d{18})|"
    r"(?=.{16}$)(?:5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720|6011|64[4-9]|65|352[89]|35[3-8])\d+"
)

_GAP = r"[ .\-/()（）\u00a0\u2010-\u2013－]"
_PHONE = re.compile(
    rf"""[+＋(（0-9](?<![A-Za-z0-9_$£€¥].)(?<![0-9][.\-].)(?<![A-Za-z]/.)(?<![0-9A-Fa-f]{{4}}-.)(?:
    (?<=[+＋])[ ]?[1-9](?:{_GAP}{{0,2}}[0-9]){{6,14}}|          # +44 (0)20 7946 0958
    (?<=[(（])[+＋]?[0-9]{{1,5}}[)）](?:{_GAP}{{0,2}}[0-9]){{6,12}}|  # (202) 555-0143, (010)…, (+86) …
    (?<=0)0[1-9](?:{_GAP}?[0-9]){{8,14}}|                        # 0086-…
    (?<=0)[1-9][0-9](?:[ \-\u2010-\u2013－]?[0-9]){{7,9}}|       # 020 7946 0958, 010-65529988
    (?<=1)[3-9][0-9]([ \-]?)[0-9]{{4}}\1[0-9]{{4}}|              # 138 1234 5678
    (?<=1)[ .\-][(]?[2-9][0-9]{{2}}[)]?[ .\-]{{1,2}}[0-9]{{3}}[ .\-][0-9]{{4}}|
    (?<=[2-9])[0-9]{{2}}(?:[ .\-/][0-9]{{3}}[ .\-][0-9]{{4}}|[0-9]{{7}})   # 202-555-0143
    )(?![0-9_]|[.\-][0-9]|(?!x[ ]?[0-9]|ext)[A-Za-z])""",
    re.VERBOSE,
)
_MADE_UP = re.compile(r"123456789|([0-9])\1{8}|^\+[0-9]{4,}\.[0-9]+$")  # the last is a decimal number
_EXTENSION = re.compile(r"[ ]?(?:x|ext\.?|转)[ ]?[0-9]{1,5}(?![0-9])")
_CALL = re.compile(r"(?:phone|tel|telephone|fax|mobile|cell|call|whatsapp|电话|手机|传真)\W{0,3}\Z", re.I)

# What keys begin with and how they go on. A short beginning costs little: it is searched as a literal.
_SECRETS = {
    **dict.fromkeys(("AKIA", "ASIA"), r"[0-9A-Z]{16}"),  # Amazon
    **dict.fromkeys(("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"[A-Za-z0-9]{36,255}+"),  # GitHub
    "github_pat_": r"[A-Za-z0-9_]{22,255}+",
    "glpat-": r"[A-Za-z0-9_\-]{20,64}+",  # GitLab
    "sk-": r"[A-Za-z0-9_\-]{32,255}+",  # OpenAI, Anthropic and others
    "AIza": r"[A-Za-z0-9_\-]{35}",  # Google
    "xox": r"[abeoprs]-[A-Za-z0-9\-]{10,255}+",  # Slack
    **dict.fromkeys(("sk_live_", "rk_live_"), r"[A-Za-z0-9]{16,255}+"),  # Stripe
    "eyJ": r"[A-Za-z0-9_\-]{10,4096}+\.eyJ[A-Za-z0-9_\-]{4,8192}+\.[A-Za-z0-9_\-]{20,1024}+",  # JWT
    "hf_": r"[A-Za-z0-9]{30,40}+",  # Hugging Face
    "npm_": r"[A-Za-z0-9]{36}",
}
_KEYS = {
    start: re.compile(rf"{start}(?<![\w-]{start}){rest}(?!\w)", re.ASCII) for start, rest in _SECRETS.items()
}
_PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
    # To the next five hyphens. A possessive group loses matches on Python before 3.11.5, and one that goes
    # back remembers each hyphen; a lookahead does neither.
    r"(?:(?=((?s:.)*?-----))\1END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----|"
    r"(?:\s{0,9}[A-Za-z0-9+/=]{60,80})+)"  # its end is cut off
)
_STYLE = re.compile(r"sk(?:[-_][a-z]*[0-9]{0,4})+")  # a class in a style sheet: sk-cube-grid-2
_BASE64 = re.compile(r"[A-Za-z0-9+/]{32}")


def _emails(text: str) -> Iterator[tuple[int, int]]:
    for domain in _DOMAIN.finditer(text):  # from the @ on; then back
        local = _LOCAL.search(text, max(0, domain.start() - 64), domain.start())
        if local and not _RESERVED.fullmatch(domain[1]) and not _SCP.match(text, domain.end()):
            yield local.start(), domain.end()


def _keys(text: str) -> Iterator[tuple[int, int]]:
    for start, pattern in _KEYS.items():
        for match in pattern.finditer(text) if start in text else ():
            # Class names in style sheets begin with sk-, too; documentation has AKIA…EXAMPLE.
            if not (_STYLE.fullmatch(match[0]) or match[0].endswith("EXAMPLE")):
                yield match.span()
    if "-----BEGIN " in text:
        yield from (match.span() for match in _PEM.finditer(text) if _BASE64.search(match[0]))


def _candidates(pattern: re.Pattern[str], check: Check) -> Callable[[str], Iterator[tuple[int, int]]]:
    def find(text: str) -> Iterator[tuple[int, int]]:
        place = 0
        while match := pattern.search(text, place):
            start, end = match.span()
            place = check(text, start, end)
            if place:
                yield start, place
            else:
                place = start + 1  # what begins within it may be one

    return find


def _address(text: str, start: int, end: int) -> int:
    try:
        address = ipaddress.ip_address(text[start:end])
    except ValueError:
        return 0
    if address.is_multicast or not address.is_global:
        return 0
    if address.version == 6:
        return end * (len(re.findall("[0-9A-Fa-f]+", text[start:end])) > 2)  # a slice such as [2000::5]
    # One digit each is a version or a section; as an address it would be a public name server.
    if end - start == 7 or _VERSION.search(text, max(0, start - 16), start):
        return 0
    return end


def _identity(text: str, start: int, end: int) -> int:
    from stdnum.iso7064 import mod_11_2

    digits = text[start:end].replace(" ", "").replace("-", "").upper().replace("Ｘ", "X")
    try:  # no check of the place: codes of counties come and go
        date.fromisoformat(digits[6:14])
    except ValueError:
        return 0
    return end * mod_11_2.is_valid(digits)


def _card(text: str, start: int, end: int) -> int:
    from stdnum import luhn

    digits = text[start:end].replace(" ", "").replace("-", "")
    return end * bool(_ISSUER.fullmatch(digits) and luhn.is_valid(digits))


def _telephone(text: str, start: int, end: int) -> int:
    number = text[start:end]
    if _MADE_UP.search(number):
        return 0
    if re.fullmatch("[2-9][0-9]{9}", number):  # any count may look so
        return end * (bool(_CALL.search(text, max(0, start - 16), start)) and _in_plan(number))
    row = re.search("[0-9] $", text[max(0, start - 2) : start]) or re.match(" [0-9]", text[end : end + 2])
    if row and " " in number and number[0] in "123456789":
        return 0  # of a table
    while sum(map(str.isdigit, number)) >= 8:  # groups that follow and are none of it are cut off
        if _in_plan(number):
            extension = _EXTENSION.match(text, start + len(number))
            return extension.end() if extension else start + len(number)
        number = re.sub("[^0-9]*[0-9]+$", "", number)
    return 0


def _in_plan(number: str) -> bool:
    """Whether a country gives out such numbers: the one it names; else, by shape, the US, the UK, China."""
    import phonenumbers

    digits = re.sub("[^0-9]", "", number)
    regions: list[str | None] = [None]
    if "+" in number or "＋" in number or digits.startswith("00"):
        digits = f"+{digits.lstrip('0')}"
    elif digits[0] == "0":
        regions = ["GB", "CN"]
    else:
        regions = ["CN" if re.match("1[3-9]", number) else "US"]
    for region in regions:
        with suppress(phonenumbers.NumberParseException):
            if phonenumbers.is_valid_number(phonenumbers.parse(digits, region)):
                return True
    return False


# In the order of looking: what may hold others comes first.
_FINDERS: dict[str, Callable[[str], Iterator[tuple[int, int]]]] = {
    "KEY": _keys,
    "EMAIL": _emails,
    "IPv4": _candidates(_IPV4, _address),
    "IPv6": _candidates(_IPV6, _address),
    "ID": _candidates(_ID, _identity),
    "CARD": _candidates(_CARD, _card),
    "PHONE": _candidates(_PHONE, _telephone),
}
KINDS = ("KEY", "EMAIL", "IP", "ID", "CARD", "PHONE")


class PersonalData(Step):
    """Masks e-mail addresses, telephone numbers, IP addresses, Chinese resident identity numbers, bank cards
    and keys (of Amazon, GitHub, OpenAI and the like, PEM private keys). No document is left out by it.

    What identifies nobody stays: private, reserved and documentation's addresses (192.168.0.1, 192.0.2.1,
    2001:db8::1), example.com, versions, decorators, `git@host.org:owner/name`. National telephone numbers
    are those of the US, the UK and China, of other countries those that begin with + or 00.

    Args:
        kinds: of EMAIL, PHONE, IP, ID, CARD, KEY; all by default.
        placeholder: what stands in place of a finding, `{kind}` in it is its kind.

    Raises:
        UserError: there is no such kind, or the placeholder has a digit or an @ in it.
    """

    def __init__(self, kinds: list[str] | None = None, placeholder: str = "<{kind}>") -> None:
        unknown = set(kinds or ()) - set(KINDS)
        if unknown:
            raise UserError(f"`kinds`: no {some(sorted(unknown))}; there are {', '.join(KINDS)}", status=2)
        for module, package in (("phonenumbers", "phonenumbers"), ("stdnum", "python-stdnum")):
            if find_spec(module) is None:
                raise not_installed("finding personal data", package, "corpus")
        self.kinds = [kind for kind in KINDS if kinds is None or kind in kinds]
        self.placeholders = {kind: placeholder.replace("{kind}", kind) for kind in self.kinds}
        if re.search("[0-9@]", placeholder):  # with its neighbours it could be found again, for ever
            raise UserError(f"`placeholder`: {placeholder} has a digit or an @ in it", status=2)
        self._counts: Counter[str] = Counter(dict.fromkeys(self.kinds, 0))

    def __call__(self, document: Document) -> None:
        def put(kind: str, start: int, end: int) -> str:
            self._counts[kind] += 1
            return self.placeholders[kind]

        document.text = self._replaced(document.text, put)

    def findings(self, text: str) -> list[tuple[str, int, int]]:
        """What of the text would be masked: kind, start and end of each, in the order of the text."""
        found: list[tuple[str, int, int]] = []

        def put(kind: str, start: int, end: int) -> str:
            found.append((kind, start, end))
            return "\0" * (end - start)  # as long as it was, so that all places stay those of the text

        self._replaced(text, put)
        return sorted(found, key=lambda each: each[1:])

    def counts(self) -> dict[str, int]:
        """How many of each kind were masked in all documents so far."""
        return dict(self._counts)

    def _replaced(self, text: str, put: Callable[[str, int, int], str]) -> str:
        """The text with what `put` gives for each finding: its kind, and where it stands at the time."""
        # Once one is masked its neighbour may stand free: until nothing is found, so that a second run
        # changes nothing; but not for ever where a thousand stand in a row.
        for _ in range(_MOST_PASSES):
            replaced = self._once(text, put)
            if replaced is text:
                break
            text = replaced
        return text

    def _once(self, text: str, put: Callable[[str, int, int], str]) -> str:
        """Once through; the text itself where nothing is found."""
        numbers = _NINE_DIGITS.search(text) is not None
        for name, find in _FINDERS.items():
            kind = name.removesuffix("v4").removesuffix("v6")
            if kind not in self.kinds or not (numbers or kind in ("KEY", "EMAIL", "IP")):
                continue
            parts, place = [], 0
            for start, end in sorted(find(text)):
                if start < place:  # within the last one: ghp_ in a PEM block
                    continue
                parts += [text[place:start], put(kind, start, end)]
                place = end
            if parts:
                text = "".join(parts) + text[place:]
        return text
