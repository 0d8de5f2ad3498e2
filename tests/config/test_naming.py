"""Tests of L{mailgw.config.naming}."""

from __future__ import annotations

import tomllib
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from mailgw.config.file import load
from mailgw.config.naming import faults_of_names
from mailgw.config.rules import faults_between
from mailgw.config.source import dotted
from mailgw.errors import SettingsError
from mailgw.settings import Names

LISTENER = '[[listener]]\nprotocol = "imap"\nendpoint = "tcp:143"\n'


class FaultsTests(SynchronousTestCase):
    """L{faults_of_names}."""

    def faults(self, text: str) -> list[str]:
        return [f"{dotted(path)}: {words}" for path, words in faults_of_names(tomllib.loads(text))]

    def one(self, text: str) -> str:
        [fault] = self.faults(text)
        return fault

    def test_good(self) -> None:
        """What an administrator would write."""
        for text in (
            "",
            '[names]\nlower_case = "all"\nstrip_domain = ["backend"]',
            '[names]\nadd_domain = "directory"\ndefault_domain = "example.com"',
            f'{LISTENER}[names]\nadd_domain = "all"\ndomain_delimiter = ["@", "%"]\n[names.domains]\n'
            '"192.0.2.1" = "a.example"\n"2001:db8::1" = "b.example"\n"tcp:143" = "c.example"',
            '[tls]\n[names]\nadd_domain = "all"\n[names.domains]\n"mail.a.example" = "a.example"\n'
            '"*.b.example" = "b.example"',
            '[tls]\n[[route]]\nkeys = ["{user}", "@{domain}", "{sni}"]\n',
            '[names]\nstrip_domain = "lookup"\nadd_domain = "lookup"\ndefault_domain = "a.example"\n'
            '[[route]]\nkeys = "{domain}"\n',
        ):
            self.assertEqual(self.faults(text), [], text)

    def test_nothing_to_add(self) -> None:
        """A domain is to be added, and there is none."""
        self.assertIn("names.add_domain: there is none to add", self.one('[names]\nadd_domain = "all"'))

    def test_nowhere_to_add(self) -> None:
        """There is a domain, and nobody gets it."""
        self.assertIn("names.default_domain: is of no use", self.one('[names]\ndefault_domain = "a.example"'))
        self.assertIn("names.domains: is of no use", self.one('[names.domains]\n"192.0.2.1" = "a.example"'))

    def test_no_domain(self) -> None:
        """What is added has to be a domain, without a delimiter in it."""
        for bad in ("a b", "@a.example", "-a", "*.example", "a..b"):
            self.assertIn("must be a domain", self.one(f'[names]\nadd_domain = "all"\ndefault_domain = "{bad}"'), bad)
        words = self.one('[names]\nadd_domain = "all"\ndomain_delimiter = "."\ndefault_domain = "a.example"')
        self.assertIn("names.default_domain: holds the domain_delimiter", words)

    def test_doors(self) -> None:
        """Doors that nobody can come in by."""
        head = '[names]\nadd_domain = "all"\n[names.domains]\n'
        for text, words in (
            (f'{head}"tcp:144" = "a.example"\n{LISTENER}', "neither an address nor the endpoint of a listener; did"),
            (f'[tls]\n{head}"a b" = "a.example"\n', "must be a host name, an address or"),
            (f'{head}"mail.a.example" = "a.example"\n', "there is no [tls]"),
        ):
            self.assertIn(words, self.one(text), text)

    def test_keys(self) -> None:
        """Keys that find nobody."""
        route = '[[route]]\nkeys = ["{user}", "KEY"]\n'
        for head, key, words in (
            ('[names]\nstrip_domain = "lookup"\n', "@{domain}", "strip_domain takes the domain away"),
            ("", "x{sni}", "without [tls]"),
            ("", "{user}", "stands there before"),
        ):
            fault = self.one(head + route.replace("KEY", key))
            self.assertTrue(fault.startswith("route.1.keys: "), fault)
            self.assertIn(words, fault)

    def test_wrong_types(self) -> None:
        """Values of wrong types are the models' business, and no rule trips over one."""
        for value in ("1", '"x"', "[1]", "{a = 1}", "[{a = 1}]", "[[]]", "true", "[]"):
            for key in (*Names.model_fields, "unknown"):
                self.faults(f"names = {{{key} = {value}}}\nlistener = {value}\nroute = {value}")
            self.faults(f"names = {value}\nroute = [{{keys = {value}}}]\nlistener = [{{endpoint = {value}}}]")

    def test_asked_for(self) -> None:
        """The faults are among those of a whole file."""
        found = [dotted(path) for path, _ in faults_between(tomllib.loads('[names]\nadd_domain = "all"'))]
        self.assertIn("names.add_domain", found)


class ModelTests(SynchronousTestCase):
    """What the values of C{[names]} may be."""

    def load(self, names: str, route: str = 'kind = "local"') -> Names:
        path = Path(self.mktemp())
        tables = f'[[directory]]\nkind = "passwd"\nfile = "x"\n[[route]]\n{route}\n[pool.main]\n[pool.main.imap]\n'
        path.write_text(f'{LISTENER}tls = "none"\n{tables}[names]\n{names}\n')
        return load(path).names

    def refused(self, names: str, route: str = 'kind = "local"') -> str:
        error = self.assertRaises(SettingsError, self.load, names, route)
        [fault] = error.faults
        return fault

    def test_steps(self) -> None:
        """One step, some, or all."""
        everywhere = ("directory", "lookup", "backend")
        for value, wanted in (
            ('"lookup"', ("lookup",)),
            ('["backend", "lookup"]', ("backend", "lookup")),
            ('"all"', everywhere),
            ('["all"]', everywhere),
            ("[]", ()),
        ):
            self.assertEqual(self.load(f"lower_case = {value}").lower_case, wanted)
        self.assertIn("must be one of", self.refused('lower_case = "lokup"'))

    def test_domains(self) -> None:
        """Addresses and host names are kept in one form each."""
        doors = '{"2001:DB8:0::1" = "a.example", "tcp:143" = "b.example"}'
        found = self.load(f'add_domain = "all"\ndomains = {doors}').domains
        self.assertEqual(found, {"2001:db8::1": "a.example", "tcp:143": "b.example"})

    def test_delimiters(self) -> None:
        """One or several, none of them empty or not to be seen."""
        self.assertEqual(self.load('domain_delimiter = "@"').domain_delimiter, ("@",))
        self.assertEqual(self.load('domain_delimiter = ["+at+", "%", "%"]').domain_delimiter, ("+at+", "%"))
        for bad in ('""', "[]", '" "', '["@", "\\t"]', '"a b "'):
            self.assertIn("names.domain_delimiter: must be one or more", self.refused(f"domain_delimiter = {bad}"))

    def test_keys(self) -> None:
        """Unknown placeholders and empty keys are told with those that there are."""
        for keys, words in (
            ('"{usr}"', "unknown '{usr}'; there are {user}, "),
            ('["{user}", "{"]', "unknown '{'"),
            ('""', "an empty key"),
            ("[]", "needs a key"),
        ):
            fault = self.refused("", f'kind = "regex"\npool = "main"\nmatch = "x"\nkeys = {keys}')
            self.assertIn("route.1.keys: ", fault)
            self.assertIn(words, fault)
