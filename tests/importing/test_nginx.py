"""Tests of L{mailgw.importing.nginx} and of the grammar that it reads nginx.conf with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from mailgw.importing.known import has_key
from mailgw.importing.nginx import translate
from mailgw.importing.nginxfile import Directive, Source, expand, parse
from mailgw.importing.nginxwords import HANDLED, WORDS
from mailgw.importing.toml import CannotImport, Imported
from tests.importing.accepted import ImportCase

TYPICAL = """
user www-data;                              # as Debian has it
include modules-enabled/*.conf;
events { worker_connections 768; }
http { include http.conf; server { listen 80; location / { return 200 "}"; } } }
mail {
    server_name mail.example.com;
    auth_http   127.0.0.1:9000/auth;
    ssl_certificate     mail.example.com.crt;
    ssl_certificate_key mail.example.com.key;
    server { listen 143; protocol imap; starttls only; }
    server { listen 993 ssl; protocol imap; }
    server { listen 110; starttls on; }
    server { listen 587; smtp_auth login plain; starttls only; proxy_smtp_auth on; }
}
"""


def names(directives: Any) -> list[Any]:
    """Directives as nested lists, for comparing."""
    return [[one.name, *one.arguments, *([names(one.block)] if one.block is not None else [])] for one in directives]


class GrammarTests(SynchronousTestCase):
    """Words, quotes, comments, blocks."""

    def parse(self, text: str) -> list[Any]:
        return names(parse(Source("n.conf", text)))

    def test_directives(self) -> None:
        """A directive ends with a semicolon or has a block, which may be empty."""
        self.assertEqual(self.parse("a;b c  d;e{}f g{h;i{j k;}}"), [
            ["a"], ["b", "c", "d"], ["e", []], ["f", "g", [["h"], ["i", [["j", "k"]]]]]
        ])  # fmt: skip

    def test_comments(self) -> None:
        """A comment begins where a word could, and not inside of one."""
        self.assertEqual(self.parse("# a { ;\nb c#d; # }\n#"), [["b", "c#d"]])

    def test_quotes(self) -> None:
        """Quotes keep everything; backslashes take five characters out of it and stay before all others."""
        text = """a "b; {c}" 'd "e" # f' "\\"g\\n" '' h\\ i j\\.k x"y;"""
        self.assertEqual(self.parse(text), [["a", "b; {c}", 'd "e" # f', '"g\n', "", "h\\ i", "j\\.k", 'x"y']])

    def test_variables(self) -> None:
        """The brace of ${name} opens no block."""
        self.assertEqual(self.parse("a ${b}c;"), [["a", "${b}c"]])

    def test_lines(self) -> None:
        """Directives know their file and line."""
        found = parse(Source("n.conf", "a;\n\nb\n  'x\ny' {\n c; }"))
        assert found[1].block is not None
        self.assertEqual([found[0].line, found[1].line, found[1].block[0].line], [1, 3, 6])
        self.assertEqual(found[1].file, "n.conf")

    def test_faults(self) -> None:
        """What is no such grammar is told with file and line."""
        for text, wanted in (
            ("a;\nb", "n.conf:2: 'b' has no ;"),
            ("a {\nb }", "n.conf:2: 'b' has no ;"),
            ("a;\n}", "n.conf:2: a } too many"),
            ("a;\nb {\nc;\n", "n.conf:2: this { is not closed"),
            ("a;\n;", "n.conf:2: nothing before ;"),
            ('a;\nb "c;\n}', 'n.conf:2: " is not closed'),
        ):
            error = self.assertRaises(CannotImport, self.parse, text)
            self.assertIn(wanted, str(error))

    def test_include(self) -> None:
        """Included directives stand in the place of the include, however deep; blocks are left alone."""
        files = {"/n/b": "x; include c;", "/n/c": "y;"}
        asked = []

        def include(pattern: str) -> list[Source]:
            asked.append(pattern)
            return [Source(pattern, files[pattern])]

        found = expand(parse(Source("/n/a", "a; include b; z { include d; }")), include, "/n")
        self.assertEqual(names(found), [["a"], ["x"], ["y"], ["z", [["include", "d"]]]])
        self.assertEqual(asked, ["/n/b", "/n/c"])

    def test_circle(self) -> None:
        """A file that includes itself is a fault and no endless loop."""
        found = expand(parse(Source("/n/a", "include a;")), lambda name: [Source(name, "include a;")], "/n")
        self.assertIn("include itself", str(self.assertRaises(CannotImport, list, found)))


class Case(ImportCase):
    """Translates a file of the folder."""

    def translate(self, text: str, files: Mapping[str, str] | None = None) -> Imported:
        def include(pattern: str) -> list[Source]:
            name = pattern.removeprefix(f"{self.folder}/")
            return [Source(pattern, (files or {})[name])] if "*" not in name else []

        return translate(Source(str(self.folder / "nginx.conf"), text), include, hostname="gateway.example")

    def mail(self, server: str, more: str = "") -> Imported:
        """One server that has all it needs, and what is in C{server}; C{more} stands in the mail block."""
        certificates = "ssl_certificate mail.example.com.crt; ssl_certificate_key mail.example.com.key;"
        own = server if "listen" in server else f"listen 143; {server}"
        return self.translate(f"mail {{ auth_http http://127.0.0.1/a; {certificates} {more} server {{ {own} }} }}")

    def first(self, server: str, more: str = "") -> dict[str, Any]:
        """The settings' first listener."""
        listener: dict[str, Any] = self.accepted(self.mail(server, more))["listener"][0]
        return listener


class SiteTests(Case):
    """A whole file."""

    def test_typical(self) -> None:
        """Four servers, one certificate, one authentication server; http is passed over with what it includes."""
        result = self.translate(TYPICAL)
        found = self.accepted(result)
        self.assertEqual(found["gateway"], {"hostname": "mail.example.com"})
        wanted = [
            ("imap", "tcp:143", "starttls"),
            ("imap", "tcp:993", "implicit"),
            ("pop3", "tcp:110", "optional"),
            ("submission", "tcp:587", "starttls"),
        ]
        self.assertEqual([(one["protocol"], one["endpoint"], one["tls"]) for one in found["listener"]], wanted)
        self.assertEqual(found["tls"]["certificate"], str(self.folder / "mail.example.com.crt"))
        main = found["pool"]["main"]
        self.assertEqual(main["login"], "own")
        self.assertEqual([main[name]["tls"] for name in ("imap", "pop3", "smtp")], ["none"] * 3)
        self.assertIn("not taken over", self.said(result, "user"))

    def test_authentication_server(self) -> None:
        """It is directory and rule in one, asked once for both."""
        found = self.accepted(self.translate(TYPICAL))
        self.assertEqual(found["directory"], [{"kind": "http", "uri": ["http://127.0.0.1:9000/auth"]}])
        self.assertEqual(found["route"], [{"kind": "http", "pool": "main"}])

    def test_authentication_server_forms(self) -> None:
        """With and without scheme and path; on a UNIX socket it cannot be asked."""
        for text, wanted in (("a", "http://a/"), ("a:81/b?c=d", "http://a:81/b?c=d"), ("http://a/", "http://a/")):
            result = self.translate(f"mail {{ auth_http {text}; auth_http_timeout 7; server {{ listen 143; }} }}")
            directory = self.accepted(result)["directory"][0]
            self.assertEqual((directory["uri"], directory["timeout"]), ([wanted], "7s"))
        text = "mail { auth_http http://unix:/run/a:/b; server { listen 143; } }"
        self.assertIn("nginx.conf:1: auth_http on a UNIX", str(self.assertRaises(CannotImport, self.translate, text)))

    def test_includes(self) -> None:
        """The mail block, a server, or what is in it may come from other files; remarks name them."""
        files = {
            "mail.conf": "mail { auth_http localhost/a; include servers.conf; }",
            "servers.conf": "server { include one.conf; }",
            "one.conf": "listen 143;\nresolver off;\n",
        }
        result = self.translate("include mail.conf;", files)
        self.assertEqual(self.accepted(result)["listener"][0]["protocol"], "imap")
        self.assertIn(f"line 2, {self.folder}/one.conf, resolver", self.said(result, "resolver"))

    def test_nothing_to_import(self) -> None:
        """No mail, no server, no listen, no auth_http, TLS without a certificate: each is said."""
        for text, words in (
            ("http { }", "no mail { } block"),
            ("mail { }", "no server { }"),
            ("mail { server { protocol imap; } }", "listens"),
            ("mail { server { listen 143; } }", "no auth_http"),
            ("mail { auth_http x; server { listen 993 ssl; } }", "0 ssl_certificate"),
        ):
            self.assertIn(words, str(self.assertRaises(CannotImport, self.translate, text)))

    def test_several_authentication_servers(self) -> None:
        """There can be one; the others are told."""
        result = self.translate("mail { auth_http a; server { listen 143; } server { listen 110; auth_http b; } }")
        self.accepted(result)
        self.assertIn("http://a/ it is", self.said(result, "auth_http"))


class ListenTests(Case):
    """Ports, addresses, TLS."""

    def test_addresses(self) -> None:
        """All forms of an address."""
        for text, wanted in (
            ("143", "tcp:143"),
            ("*:143", "tcp:143"),
            ("127.0.0.1:143", "tcp:143:interface=127.0.0.1"),
            ("[::1]:143", "tcp:143:interface=\\:\\:1"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("143 backlog=511", "tcp:143:backlog=511"),
        ):
            self.assertEqual(self.first(f"listen {text}; protocol imap;")["endpoint"], wanted)

    def test_both_families(self) -> None:
        """[::] takes IPv4 too, so that a listener for that is too much."""
        result = self.mail("listen 143; listen [::]:143 ipv6only=on;")
        found = self.accepted(result)["listener"]
        self.assertEqual([one["endpoint"] for one in found], ["tcp:143:interface=\\:\\:"])
        self.assertIn("redundant", self.said(result, "listen"))

    def test_bad_address(self) -> None:
        """What is none is told with its line."""
        for text in ("nonsense!:1", "localhost", "*:imapx"):
            error = self.assertRaises(CannotImport, self.mail, f"listen {text}; protocol imap;")
            self.assertIn("nginx.conf:1: listen:", str(error))

    def test_protocols(self) -> None:
        """By name, by port; of an unknown port without a name nothing is known."""
        for text, wanted in (
            *(("listen 993;", "imap"), ("listen 995;", "pop3"), ("listen 25;", "submission")),
            *(("listen 1; protocol pop3;", "pop3"), ("listen 1; protocol smtp;", "submission")),
        ):
            self.assertEqual(self.first(text)["protocol"], wanted)
        result = self.mail("listen 143; listen 1143;")
        self.assertEqual(len(self.accepted(result)["listener"]), 1)
        self.assertIn("no protocol for 1143", self.said(result, "listen"))

    def test_mail_without_login(self) -> None:
        """smtp_auth none on port 25 is mx, and the domains are to be written; on others it is submission."""
        result = self.mail("listen 25; smtp_auth none; starttls on;", "server_name mail.example.com;")
        found = self.accepted(result)
        self.assertEqual((found["listener"][0]["protocol"], found["listener"][0]["tls"]), ("mx", "starttls"))
        self.assertEqual(found["domains"]["accept"], ["mail.example.com"])
        self.assertIn("CHANGE THIS", result.settings)
        self.assertEqual(self.first("listen 587; smtp_auth plain none;")["protocol"], "submission")

    def test_tls(self) -> None:
        """starttls, ssl of the listen, and the ssl of older versions."""
        for text, wanted in (
            *(("", "none"), ("starttls off;", "none"), ("starttls on;", "optional"), ("starttls only;", "starttls")),
            *(("listen 993 ssl;", "implicit"), ("ssl on;", "implicit"), ("ssl off;", "none")),
        ):
            self.assertEqual(self.first(text)["tls"], wanted, text)
        self.assertEqual(self.first("", "starttls only;")["tls"], "starttls")
        self.assertEqual(self.first("starttls off;", "starttls only;")["tls"], "none")

    def test_proxy_protocol(self) -> None:
        """The balancers are those of set_real_ip_from, as soon as such a header is read."""
        result = self.mail("listen 143 proxy_protocol; set_real_ip_from 10.0.0.0/8;")
        listener = self.accepted(result)["listener"][0]
        if has_key("listener", "proxy_from"):
            self.assertEqual(listener["proxy_from"], ["10.0.0.0/8"])
        else:
            self.assertIn("no counterpart in this version", self.said(result, "listen"))

    def test_backend_header(self) -> None:
        """The header towards backends is the pool's; where servers differ, that is said."""
        for value, wanted in (("on", "v1"), ("v2", "v2"), ("off", None)):
            result = self.mail(f"proxy_protocol {value};")
            self.assertEqual(self.accepted(result)["pool"]["main"].get("proxy"), wanted)
        result = self.mail("proxy_protocol v2;", "server { listen 110; proxy_protocol off; }")
        self.assertEqual(self.accepted(result)["pool"]["main"]["proxy"], "v2")
        self.assertIn("it is the pool's", self.said(result, "proxy_protocol"))

    def test_socket_options(self) -> None:
        """They are the system's."""
        result = self.mail("listen 143 rcvbuf=64k so_keepalive=on strange;")
        self.accepted(result)
        self.assertIn("rcvbuf=64k: no counterpart", self.said(result, "listen"))
        self.assertIn("strange: is not known", self.said(result, "listen"))


class TlsTests(Case):
    """Certificates and versions."""

    def test_several_certificates(self) -> None:
        """Two of one server are a list."""
        again = "ssl_certificate mail.example.com.crt; ssl_certificate_key mail.example.com.key;"
        tls = self.accepted(self.mail("starttls on;", again))["tls"]
        self.assertEqual(len(tls["certificate"]), 2)

    def test_names(self) -> None:
        """A second server's own certificate goes by SNI."""
        text = """mail { auth_http a; starttls only; ssl_certificate mail.example.com.crt;
            ssl_certificate_key mail.example.com.key;
            server { listen 127.0.0.1:143; }
            server { listen 127.0.0.2:143; server_name two.example.com;
                     ssl_certificate %s/./mail.example.com.crt; ssl_certificate_key mail.example.com.key; } }"""
        tls = self.accepted(self.translate(text % self.folder))["tls"]
        self.assertEqual([one["names"] for one in tls["name"]], ["two.example.com"])

    def test_versions(self) -> None:
        """1.3 alone is the minimum; older than 1.2 is not to be had."""
        found = self.accepted(self.mail("starttls on; ssl_protocols TLSv1.3;"))
        self.assertEqual(found["tls"]["minimum"], "1.3")
        result = self.mail("starttls on; ssl_protocols TLSv1 TLSv1.2 TLSv1.3;")
        self.assertNotIn("minimum", self.accepted(result)["tls"])
        self.assertIn("TLSv1: nothing older", self.said(result, "ssl_protocols"))


class BackendTests(Case):
    """How the backends are logged in to."""

    def test_smtp_alone(self) -> None:
        """nginx does not log in at SMTP backends unless it is told to; it tells them the user by XCLIENT."""
        for text, wanted in (
            ("", "xclient"),
            ("xclient on;", "xclient"),
            ("xclient off;", "none"),
            ("proxy_smtp_auth on;", "own"),
        ):
            found = self.accepted(self.mail(f"listen 587; {text}"))
            self.assertEqual(found["pool"]["main"]["login"], wanted)

    def test_smtp_beside_others(self) -> None:
        """Together with IMAP the login is everybody's own, and that is said."""
        text = "mail { auth_http a; server { listen 143; } server { listen 587; } }"
        result = self.translate(text)
        self.assertEqual(self.accepted(result)["pool"]["main"]["login"], "own")
        self.assertIn("service_user", self.said(result, "server"))


class OptionTests(Case):
    """Everything else."""

    def test_limits(self) -> None:
        """timeout, proxy_timeout, max_errors; of several the longest, and that is said."""
        text = """worker_shutdown_timeout 1m30s; worker_processes 4; mail { auth_http a; timeout 90; max_errors 7;
                  server { listen 143; proxy_timeout 1h; } server { listen 110; timeout 2m; } }"""
        result = self.translate(text)
        found = self.accepted(result)
        self.assertEqual(found["limits"], {"login_deadline": "120s", "idle": "3600s", "bad_commands": 7})
        self.assertEqual((found["gateway"]["drain"], found["gateway"]["workers"]), ("90s", 4))
        self.assertIn("the longest", self.said(result, "timeout"))

    def test_every_directive(self) -> None:
        """A file with every mail directive can be imported, and each one without a counterpart is explained."""
        result = self.mail("", " ".join(f"{name} x;" for name in sorted(WORDS)))
        self.accepted(result)
        for name in WORDS:
            self.assertNotEqual(self.said(result, name), "", name)
        self.assertEqual(set(WORDS) & HANDLED, set())

    def test_unknown_directive(self) -> None:
        """What is not known is left out and said."""
        result = self.mail("nonsense on;")
        self.accepted(result)
        self.assertIn("not a mail directive", self.said(result, "nonsense"))

    def test_headers(self) -> None:
        """auth_http_header is sent; its value is a secret now and then and stands in no remark."""
        result = self.mail('auth_http_header X-Auth-Key "geheim";')
        self.assertNotIn("geheim", " ".join(map(str, result.remarks)))
        self.assertEqual(self.accepted(result)["directory"][0]["header"], {"X-Auth-Key": "geheim"})

    def test_directive_values(self) -> None:
        """Directives compare as values."""
        self.assertEqual(Directive("f", 1, "a", ("b",)), Directive("f", 1, "a", ("b",), None))
