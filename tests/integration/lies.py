"""Lies: what scripts of backends say, by protocol. L{tests.integration.liars} plays them."""

from __future__ import annotations

from collections.abc import Mapping

from tests.integration.attacks import plain
from tests.integration.liars import BABBLE, Heard, Script

PASSWORD = b"own-pass-w0rd-of-the-user"
"""Of everybody who has such a backend."""
MOST = 64 << 20
"""Octets that a flooding backend has; it never gets rid of them."""
LINE = b" " + BABBLE + b"\r\n"

# --- how honest ones begin -------------------------------------------------------------------------------------------

GREETINGS = {
    "imap": b"* OK [CAPABILITY IMAP4rev1 STARTTLS]" + LINE,
    "pop3": b"+OK" + LINE,
    "smtp": b"220 liar.example ESMTP" + LINE,
}
QUESTIONS = {"imap": b"CAPABILITY", "pop3": b"CAPA", "smtp": b"EHLO"}
OFFERS = {
    "imap": b"* CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN SASL-IR\r\nC OK" + LINE,
    "pop3": b"+OK" + LINE + b"STLS\r\nSASL PLAIN\r\nUSER\r\n.\r\n",
    "smtp": b"250-liar.example\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n",
}
BARE_OFFERS = {
    "imap": b"* CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR\r\nC OK" + LINE,
    "pop3": b"+OK" + LINE + b"SASL PLAIN\r\nUSER\r\n.\r\n",
    "smtp": b"250-liar.example\r\n250 AUTH PLAIN\r\n",
}
GO_AHEADS = {"imap": b"S OK" + LINE, "pop3": b"+OK" + LINE, "smtp": b"220 2.0.0" + LINE}
REFUSALS = {"imap": b"S BAD" + LINE, "pop3": b"-ERR" + LINE, "smtp": b"454 4.7.0" + LINE}
LOGINS = (b"AUTHENTICATE", b"LOGIN", b"AUTH ", b"PASS ")


def go_ahead(protocol: str, heard: Heard, *glued: bytes) -> None:
    """Greet, and give the go-ahead for TLS, with something glued to it."""
    heard.say(GREETINGS[protocol])
    if protocol != "imap":
        heard.until(QUESTIONS[protocol])
        heard.say(OFFERS[protocol])
    heard.until(b"STARTTLS", b"STLS")
    heard.say(GO_AHEADS[protocol] + b"".join(glued[:1]), *glued[1:])


def secured(protocol: str, heard: Heard) -> None:
    """All is well up to the login command, which has been heard."""
    go_ahead(protocol, heard)
    heard.secure()
    heard.until(QUESTIONS[protocol])
    heard.say(BARE_OFFERS[protocol])
    heard.until(*LOGINS)


# --- lies of every protocol ------------------------------------------------------------------------------------------


def lies_in_clear(protocol: str) -> Mapping[str, Script]:
    """Scripts by name; none of them has any business with a password."""
    greeting, offers, answer = GREETINGS[protocol], OFFERS[protocol], GO_AHEADS[protocol]
    cleaned = greeting.replace(b" STARTTLS", b" AUTH=PLAIN SASL-IR")

    def endless_greeting(heard: Heard) -> None:
        heard.say(greeting[:5])
        heard.flood(BABBLE * 1000, MOST)

    def endless_offers(heard: Heard) -> None:
        heard.say(greeting.replace(b" [CAPABILITY IMAP4rev1 STARTTLS]", b""))
        heard.until(QUESTIONS[protocol])
        more = {"imap": b"* CAPABILITY", "pop3": b"+OK\r\nX", "smtp": b"250-"}[protocol] + LINE
        heard.flood(more * 500, MOST)

    def endless_line(heard: Heard) -> None:
        heard.say(greeting.replace(b" [CAPABILITY IMAP4rev1 STARTTLS]", b""))
        heard.until(QUESTIONS[protocol])
        heard.say(offers[:12])
        heard.flood(b" X" * 5000, MOST)

    def not_offered(heard: Heard) -> None:
        heard.say(cleaned)
        heard.until(QUESTIONS[protocol])
        heard.say(BARE_OFFERS[protocol])
        heard.listen()

    def refused(heard: Heard) -> None:
        heard.say(greeting)
        if protocol != "imap":
            heard.until(QUESTIONS[protocol])
            heard.say(offers)
        heard.until(b"STARTTLS", b"STLS")
        heard.say(REFUSALS[protocol])
        heard.listen()

    def glued(heard: Heard) -> None:
        go_ahead(protocol, heard, BARE_OFFERS[protocol])
        heard.listen()

    def glued_half(heard: Heard) -> None:
        go_ahead(protocol, heard, BARE_OFFERS[protocol][:4])
        heard.secure()
        heard.listen()

    def glued_later(heard: Heard) -> None:
        go_ahead(protocol, heard, b"", BARE_OFFERS[protocol])
        heard.listen()

    def no_handshake(heard: Heard) -> None:
        go_ahead(protocol, heard)
        heard.hear()  # the ClientHello: in answer, clear text
        heard.say(BARE_OFFERS[protocol])
        heard.listen()

    def at_once(heard: Heard) -> None:
        heard.say(greeting + offers + answer + BARE_OFFERS[protocol])
        heard.listen()

    def rubbish(heard: Heard) -> None:
        heard.say(b"\0\xff\xfe" + LINE + b"\0" * 1000 + b"\r\n")
        heard.listen()

    def line_feeds(heard: Heard) -> None:
        heard.say(greeting.replace(b"\r\n", b"\n") * 3)
        heard.reset()

    def web(heard: Heard) -> None:
        heard.say(b"HTTP/1.1 400 Bad Request" + LINE + b"\r\n")
        heard.listen()

    def half_close(heard: Heard) -> None:
        heard.say(greeting)
        heard.half_close()
        heard.listen()

    return {
        "endless-greeting": endless_greeting,
        "endless-offers": endless_offers,
        "endless-line": endless_line,
        "not-offered": not_offered,
        "refused": refused,
        "glued": glued,
        "glued-half": glued_half,
        "glued-later": glued_later,
        "no-handshake": no_handshake,
        "at-once": at_once,
        "rubbish": rubbish,
        "line-feeds": line_feeds,
        "web": web,
        "half-close": half_close,
        "reset": Heard.reset,
    }


def greetings(protocol: str) -> Mapping[str, Script]:
    """Greetings that are none of a server that one could log in at."""
    said = {
        "imap": (b"* PREAUTH", b"* BYE", b"* BAD", b"a OK", b"* NO", b"220", b"+OK"),
        "pop3": (b"-ERR", b"-ERR [SYS/PERM]", b"* OK", b"220", b"OK"),
        "smtp": (b"554", b"421 4.3.2", b"451", b"250", b"* OK", b"+OK", b"2200"),
    }[protocol]

    def saying(words: bytes) -> Script:
        def script(heard: Heard) -> None:
            heard.say(words + LINE)
            heard.listen()

        return script

    return {f"greets-{number}": saying(words) for number, words in enumerate(said)}


def hung(protocol: str) -> Script:
    """It is told the password, and says no more."""

    def script(heard: Heard) -> None:
        secured(protocol, heard)
        heard.listen()

    return script


def slow_lies(protocol: str) -> Mapping[str, Script]:
    """Scripts that only time can end."""

    def dripping(heard: Heard) -> None:
        heard.drip(b"* OK " + b"x" * 60 if protocol == "imap" else GREETINGS[protocol][:4] + b"x" * 60)

    def hung_handshake(heard: Heard) -> None:
        go_ahead(protocol, heard)
        heard.listen()

    return {
        "silence": Heard.listen,
        "dripping": dripping,
        "hung-handshake": hung_handshake,
        "hung-login": hung(protocol),
    }


def lies_in_tls(protocol: str) -> Mapping[str, Script]:
    """Scripts that have been told the password, in TLS, and answer with these."""
    answers = {
        "imap": (
            b"L NO [UNAVAILABLE]",
            b"L NO [REFERRAL imap://evil.example/]",
            b"L BAD",
            b"* BYE",
            b"+",
            b"x OK",
            b"S OK",
            b"L OKAY",
            b"L NO [INUSE]",
            b"L OK" + b" x" * 5000,
        ),
        "pop3": (b"-ERR [SYS/TEMP]", b"-ERR [IN-USE]", b"+ ", b"OK", b"-ERR [LOGIN-DELAY]", b"+OK" + b" x" * 5000),
        "smtp": (
            b"454 4.7.0",
            b"421 4.7.0",
            b"334",
            b"250",
            b"535-x\r\n550",
            b"999",
            b"530 5.7.0",
            b"235 2.7.0 x\r\n250",
        ),
    }[protocol]

    def answering(words: bytes) -> Script:
        def script(heard: Heard) -> None:
            secured(protocol, heard)
            heard.say(words + LINE)
            heard.listen()

        return script

    def resetting(heard: Heard) -> None:
        secured(protocol, heard)
        heard.reset()

    return {f"answers-{number}": answering(words) for number, words in enumerate(answers)} | {"resets": resetting}


# --- lies of one protocol only ---------------------------------------------------------------------------------------


def rejecting(protocol: str) -> Script:
    """The user's own password is refused, with the password in the answer."""

    def script(heard: Heard) -> None:
        secured(protocol, heard)
        said = {"imap": b"L NO ", "pop3": b"-ERR ", "smtp": b"535 5.7.8 "}[protocol]
        heard.say(said + PASSWORD + b" " + plain(b"x", PASSWORD) + LINE)
        heard.listen()

    return script


def leaving(protocol: str) -> Script:
    """It lets us in, and resets the connection."""

    def script(heard: Heard) -> None:
        secured(protocol, heard)
        heard.say(
            {"imap": b"L OK [CAPABILITY IMAP4rev1] in\r\n", "pop3": b"+OK in\r\n", "smtp": b"235 2.7.0 in\r\n"}[
                protocol
            ]
        )
        heard.reset()

    return script


def taking_mail(*answers: bytes) -> Script:
    """It lets us in, and gives these answers to MAIL and RCPT, one for each line that it hears."""

    def script(heard: Heard) -> None:
        secured("smtp", heard)
        heard.say(b"235 2.7.0 in\r\n")
        for answer in answers:
            heard.line()
            heard.say(answer)
        heard.listen()

    return script


MAIL_LIES: Mapping[str, Script] = {
    "early-replies": taking_mail(b"250 ok\r\n250 ok\r\n354 go\r\n250 stored\r\n"),
    "mail-354": taking_mail(b"354 go" + LINE),
    "mail-530": taking_mail(b"530 5.7.0" + LINE),
    "mail-endless": taking_mail((b"250-" + LINE[1:]) * 5000),
    "mail-rubbish": taking_mail(b"\xff\0" + LINE),
    "rcpt-421": taking_mail(b"250 ok\r\n", b"421 4.3.2" + LINE),
    "rcpt-503": taking_mail(b"250 ok\r\n", b"503 5.5.1" + LINE),
}
