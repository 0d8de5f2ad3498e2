"""Tests of L{mailgw.importing.perdition} and of what it reads perdition.conf and maps with."""

from __future__ import annotations

from typing import Any

from mailgw import registry
from mailgw.importing.perdition import MODES, STARTED_BY_DEBIAN, translate
from mailgw.importing.perditionfile import FLAGS, SHORT, VALUED, read_options
from mailgw.importing.perditionmaps import MapFile, maps_named
from mailgw.importing.perditionwords import WORDS
from mailgw.importing.toml import CannotImport, Imported
from tests.importing.accepted import ImportCase

COUNTERPARTS = {
    *("authenticate_timeout", "bind_address", "listen_port", "map_library", "map_library_opt", "outgoing_port"),
    *("outgoing_server", "protocol", "ssl_ca_chain_file", "ssl_ca_file", "ssl_cert_file", "ssl_key_file"),
    *("ssl_listen_min_proto_version", "ssl_mode", "ssl_no_cert_verify", "ssl_outgoing_min_proto_version", "timeout"),
    *("add_domain", "domain_delimiter", "explicit_domain", "lower_case", "query_key", "strip_domain", "username"),
    "username_from_database",
}
"""Options that become keys, or of which the translation itself says what became of them."""


class FileTests(ImportCase):
    """The grammar of perdition.conf."""

    def options(self, text: str) -> list[tuple[int, str, str]]:
        return [(option.line, option.name, option.value) for option in read_options(text)]

    def test_lines(self) -> None:
        """Short and long names, flags, comments, blanks around everything, continued lines."""
        text = "# nothing\n\nl 1143 # a port\n  group\tmail\na\nssl_mode tls_listen,\\\ntls_outgoing\n--quiet\n"
        wanted = [(3, "listen_port", "1143"), (4, "group", "mail"), (5, "authenticate_in", "")]
        wanted += [(6, "ssl_mode", "tls_listen,tls_outgoing"), (8, "quiet", "")]
        self.assertEqual(self.options(text), wanted)

    def test_quotes(self) -> None:
        """Quotes and backslashes protect blanks, hashes and each other; a value may have blanks without."""
        text = "O \"it's # fine\"\nO two words\nO \\#1 \\\\u 'a\\b'\nm \"\"\nD ''\n"
        wanted = ["it's # fine", "two words", "#1 \\u a\\b", "", ""]
        self.assertEqual([value for _, _, value in self.options(text)], wanted)

    def test_open_quote(self) -> None:
        """A quote that is not closed is told with its line."""
        error = self.assertRaises(CannotImport, read_options, "debug\nO 'oh\n")
        self.assertEqual(str(error), "line 2: a ' is not closed")

    def test_every_option_has_an_answer(self) -> None:
        """What Perdition has is either taken over or explained, and nothing is both."""
        self.assertEqual(FLAGS & VALUED, set())
        self.assertEqual(set(WORDS) | COUNTERPARTS, FLAGS | VALUED)
        self.assertEqual(set(WORDS) & COUNTERPARTS, set())


class Case(ImportCase):
    """Translates, with the certificate of the folder where the text names none."""

    def translate(self, text: str, *maps: tuple[str, str], protocols: Any = ("IMAP4",), **more: Any) -> Imported:
        names = "ssl_cert_file mail.example.com.crt\nssl_key_file mail.example.com.key\n"
        files = []
        for name, content in maps:
            (self.folder / name).write_text(content)
            files.append(MapFile(str(self.folder / name), content))
        return translate(names + text, files, protocols, folder=str(self.folder), hostname="mail.example.com", **more)

    def settings(self, text: str, *maps: tuple[str, str], **more: Any) -> dict[str, Any]:
        return self.accepted(self.translate(text, *maps, **more))


class PlaceTests(Case):
    """Where users go."""

    def test_pure_proxy(self) -> None:
        """One server for everybody."""
        found = self.settings('map_library ""\noutgoing_server be1.internal\n')
        self.assertEqual(found["route"], [{"kind": "pool", "pool": "main"}])
        self.assertEqual(found["pool"]["main"]["members"], ["be1.internal"])
        self.assertNotIn("shared", found["pool"]["main"])

    def test_map_and_default(self) -> None:
        """A popmap, then the server for whoever is not in it; a broken map never leads there, and that is said."""
        result = self.translate("s be0\n", ("popmap", "anna:be1\nben:be2:1143\n"))
        found = self.accepted(result)
        table = {"kind": "table", "file": str(self.folder / "popmap"), "pool": "main"}
        self.assertEqual(found["route"], [table, {"kind": "pool", "pool": "main"}])
        self.assertIn("temporary trouble", self.said(result, "outgoing_server"))

    def test_several_servers(self) -> None:
        """They all have every mailbox; ports that differ are the members'."""
        result = self.translate("s be1,be2:1143,be2:2143\nmap_library ''\n")
        main = self.accepted(result)["pool"]["main"]
        second, third = ({"host": "be2", "name": f"be2-{port}", "imap": port} for port in (1143, 2143))
        self.assertEqual(main["members"], ["be1", second, third])
        self.assertTrue(main["shared"])
        self.assertIn("stays on one", self.said(result, "outgoing_server"))

    def test_regular_expressions(self) -> None:
        """By the library, or by the name of the map."""
        for text, name in (("M /usr/lib/libperditiondb_posix_regex.so.0\n", "map"), ("", "popmap.re")):
            found = self.settings(text, (name, "^[a-k]: be1\n(.*)@(.*): $2\n"))
            self.assertEqual(found["route"][0]["match"], "regex")

    def test_several_maps(self) -> None:
        """They are asked in the order of the command line."""
        found = self.settings("", ("b", "anna: be1\n"), ("a.re", "^b: be2\n"))
        self.assertEqual([route["file"][-1] for route in found["route"]], ["b", "e"])

    def test_broken_map(self) -> None:
        """A line that check refuses is told with file and line."""
        result = self.translate("", ("popmap", "anna:be1\nben\n"))
        self.assertIn("popmap:2: no colon", self.said(result, "popmap"))

    def test_users_in_map(self) -> None:
        """Users beside hosts are left out, and that is said; with username_from_database they count."""
        result = self.translate("", ("popmap", "anna:anna2@be1\n"))
        self.assertNotIn("username", self.accepted(result)["route"][0])
        self.assertIn("names users beside hosts", self.said(result, "popmap"))
        result = self.translate("U\n", ("popmap", "anna:anna2@be1\n"))
        self.assertIs(self.accepted(result)["route"][0]["username"], True)
        self.assertEqual(self.said(result, "popmap"), "")

    def test_nowhere(self) -> None:
        """Without a map and a server nobody has a place, and nothing is written."""
        error = self.assertRaises(CannotImport, self.translate, "M /usr/lib/libperditiondb_mysql.so.0\n")
        self.assertIn("user:host", str(error))

    def test_databases(self) -> None:
        """Without the library's map its users would go to the server for all others: first the map is wanted."""
        for name in ("mysql", "postgresql", "odbc", "nis", "daemon", "own"):
            text = f"M /usr/lib/libperditiondb_{name}.so.0\nm h:1:d\ns be1\n"
            self.assertIn("user:host", str(self.assertRaises(CannotImport, self.translate, text)))
            result = self.translate(text, ("exported", "anna:be1\n"))
            self.accepted(result)
            self.assertIn("user:host", self.said(result, "map_library"))

    def test_map_is_missing(self) -> None:
        """Of a map that the file names the text is wanted, too; of the one that is nowhere named it is said."""
        for text in ("m /srv/users.db\ns be1\n", "M libperditiondb_posix_regex.so.0\ns be1\n"):
            error = self.assertRaises(CannotImport, self.translate, text)
            self.assertIn("the text of the map is not there", str(error))
        result = self.translate("s be1\n")
        self.accepted(result)
        self.assertIn("nobody is looked up", self.said(result, "map_library"))

    def test_maps_named(self) -> None:
        """The text that a map was made of, which is read when the command line names none."""
        library = "M /usr/lib/libperditiondb_{}.so.0\n".format
        for text, wanted in (
            ("", ("/etc/perdition/popmap",)),
            ("m /srv/users.gdbm.db\n", ("/srv/users",)),
            (library("bdb"), ("/etc/perdition/popmap",)),
            (library("posix_regex"), ("/etc/perdition/popmap.re",)),
            (library("posix_regex") + "m /srv/map\n", ("/srv/map",)),
            (library("ldap"), ()),
            ("M ''\n", ()),
        ):
            self.assertEqual(maps_named(text), wanted, text)


class LdapTests(Case):
    """The LDAP library: its URL becomes a directory and a rule."""

    def test_whole(self) -> None:
        """Servers, base, filter, account, attributes."""
        url = "3:ldap://l1 l2:1389/ou=m,dc=x%20y?user,home,port?sub?(uid=%10s)?!bindname=uid=p%2co=x,X-BINDPW=geheim"
        result = self.translate(f'M /usr/lib/libperditiondb_ldap.so.0\nm "{url}"\n')
        found = self.accepted(result)
        wanted = {
            "kind": "ldap",
            "uri": ["ldap://l1", "ldap://l2:1389"],
            "bind_dn": "uid=p,o=x",
            "bind_password": "geheim",
            "base": "ou=m,dc=x y",
            "filter": "(uid={user})",
            "username": "uid",
            "attributes": ["home"],
        }
        self.assertEqual(found["directory"], [wanted])
        self.assertEqual(found["route"], [{"kind": "attribute", "name": "home", "pool": "main"}])
        self.assertIn("attribute port is not read", self.said(result, "map_library_opt"))

    def test_defaults(self) -> None:
        """Without a URL Perdition's own; with username_from_database the backend's user is the canonical name."""
        result = self.translate("M /usr/lib/libperditiondb_ldap.so.0\nU\n")
        directory = self.accepted(result)["directory"][0]
        self.assertEqual((directory["uri"], directory["username"]), (["ldap://localhost"], "username"))
        self.assertIn("'one'", self.said(result, "map_library_opt"))

    def test_no_url(self) -> None:
        """Something else in its place is a fault with its line."""
        error = self.assertRaises(CannotImport, self.translate, "M libperditiondb_ldap.so.0\nm nonsense\n")
        self.assertEqual(str(error), "line 4: map_library_opt is no LDAP URL")


class TlsTests(Case):
    """All modes of TLS, to clients and to backends."""

    def test_modes(self) -> None:
        """Every ssl_mode, alone."""
        wanted = {
            "none": ("none", "none"),
            "ssl_listen": ("implicit", "none"),
            "ssl_outgoing": ("none", "implicit"),
            "ssl_all": ("implicit", "implicit"),
            "tls_listen": ("optional", "none"),
            "tls_outgoing": ("none", "starttls"),
            "tls_all": ("optional", "starttls"),
            "tls_listen_force": ("starttls", "none"),
            "tls_outgoing_force": ("none", "starttls"),
            "tls_all_force": ("starttls", "starttls"),
        }
        self.assertEqual(set(wanted), set(MODES))
        for mode, both in wanted.items():
            found = self.settings(f"ssl_mode {mode}\ns be1\nM ''\n")
            self.assertEqual((found["listener"][0]["tls"], found["pool"]["main"]["imap"]["tls"]), both, mode)
            self.assertEqual("tls" in found, both[0] != "none")

    def test_opportunistic(self) -> None:
        """tls_outgoing and tls_listen say what is different from now on; the forced ones need no word."""
        said = self.said(self.translate("ssl_mode tls_all\ns be1\n"), "ssl_mode")
        self.assertIn('becomes tls = "starttls", which never does', said)
        self.assertIn('"optional"', said)
        self.assertEqual(self.said(self.translate("ssl_mode tls_all_force\ns be1\n"), "ssl_mode"), "")

    def test_combined(self) -> None:
        """Modes add up."""
        found = self.settings("ssl_mode ssl_listen,tls_outgoing_force\ns be1\n")
        self.assertEqual(found["listener"][0]["tls"], "implicit")
        self.assertEqual(found["pool"]["main"]["imap"]["tls"], "starttls")

    def test_unknown_mode(self) -> None:
        """A mode that Perdition has not is a fault."""
        error = self.assertRaises(CannotImport, self.translate, "ssl_mode tls_lisen\n")
        self.assertIn("ssl_mode has no 'tls_lisen'", str(error))

    def test_secure_protocols(self) -> None:
        """IMAP4S and POP3S are TLS on both sides where ssl_mode says nothing, and what it says elsewhere."""
        found = self.settings("s be1\n", protocols=["IMAP4S", "pop3s"])
        self.assertEqual([one["endpoint"] for one in found["listener"]], ["tcp:993", "tcp:995"])
        self.assertEqual([one["tls"] for one in found["listener"]], ["implicit"] * 2)
        self.assertEqual(found["pool"]["main"]["pop3"], {"port": 995, "tls": "implicit"})
        found = self.settings("s be1\nssl_mode ssl_listen\noutgoing_port 143\n", protocols=["IMAP4S"])
        self.assertEqual(found["pool"]["main"]["imap"], {"port": 143, "tls": "none"})

    def test_trust(self) -> None:
        """The CA, and that nothing is checked; neither where there is no TLS to backends."""
        text = "ssl_ca_file mail.example.com.crt\nssl_no_cert_verify\ns be1\n"
        main = self.settings(text + "ssl_mode tls_outgoing_force\n")["pool"]["main"]
        self.assertEqual((main["ca"], main["verify"]), (str(self.folder / "mail.example.com.crt"), False))
        result = self.translate(text)
        self.assertNotIn("ca", self.accepted(result)["pool"]["main"])
        self.assertIn("of no use", self.said(result, "ssl_ca_file"))


class ListenerTests(Case):
    """Ports and addresses."""

    def test_debian(self) -> None:
        """A file that says next to nothing is what Debian's init script makes of it: four protocols."""
        found = self.settings("# all as it comes\n", ("popmap", "anna:localhost\n"), protocols=())
        self.assertEqual(len(found["listener"]), len(STARTED_BY_DEBIAN))
        self.assertEqual(set(found["pool"]["main"]) & {"imap", "pop3"}, {"imap", "pop3"})

    def test_protocol(self) -> None:
        """The command line's counts more than the file's, and that more than the file's name."""
        for protocols, text, guessed, wanted in (
            (["POP3"], "protocol IMAP4\n", [], "pop3"),
            ([], "P imap4\n", ["POP3"], "imap"),
            ([], "", ["IMAP4S"], "imap"),
            ([], "listen_port 1110\n", [], "pop3"),
        ):
            found = self.settings(text + "s be1\n", protocols=protocols, guessed=guessed)
            self.assertEqual([one["protocol"] for one in found["listener"]], [wanted])

    def test_unknown_protocol(self) -> None:
        """One that Perdition has not is a fault."""
        self.assertIn("IMAP9", str(self.assertRaises(CannotImport, self.translate, "P IMAP9\n", protocols=())))

    def test_managesieve(self) -> None:
        """ManageSieve is taken over as soon as it is built; until then it is left out and said so."""
        result = self.translate("s be1\n", protocols=["MANAGESIEVE", "IMAP4"])
        found = [one["protocol"] for one in self.accepted(result)["listener"]]
        built = "managesieve" in registry.TABLE["protocol"]
        self.assertEqual(found, ["managesieve", "imap"] if built else ["imap"])
        self.assertEqual("no counterpart" in self.said(result, "protocol"), not built)

    def test_addresses(self) -> None:
        """Every address of bind_address, with its own port or without, IPv6 too."""
        found = self.settings("b 127.0.0.1,[::1]:1143\nl imaps\ns be1\n")
        wanted = ["tcp:993:interface=127.0.0.1", "tcp:1143:interface=\\:\\:1"]
        self.assertEqual([one["endpoint"] for one in found["listener"]], wanted)

    def test_same_port(self) -> None:
        """Two protocols on one port: the first has it."""
        result = self.translate("l 1143\ns be1\n", protocols=["IMAP4", "POP3"])
        self.assertEqual([one["protocol"] for one in self.accepted(result)["listener"]], ["imap"])
        self.assertIn("pop3 is left out", self.said(result, "listen_port"))

    def test_bad_port(self) -> None:
        """A port by a name that is not known is a fault with its line."""
        error = self.assertRaises(CannotImport, self.translate, "l nonsense\ns be1\n")
        self.assertIn("line 3: listen_port: 'nonsense'", str(error))


class NameTests(Case):
    """What becomes of user names."""

    MAP = ("popmap", "anna: be1\n")

    def names(self, text: str, *maps: tuple[str, str], **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.accepted(self.translate(f"{text}s be1\n", *maps, **more)).get("names", {})
        return found

    def test_states(self) -> None:
        """With maps the directory is asked for what both lookups and logins have; Perdition's other words work, too."""
        for states, wanted in (
            ("all", "all"),
            ("servername_lookup", ["lookup"]),
            ("Server_Lookup", ["lookup"]),
            ("remote_login", ["backend"]),
            ("remote_login,servername_lookup", "all"),
            ("local_authentication", None),
            ("local_auth,remote_login", ["backend"]),
        ):
            for option in ("lower_case", "strip_domain"):
                self.assertEqual(self.names(f"{option} {states}\n", self.MAP).get(option), wanted, states)
            found = self.names(f"add_domain {states}\nexplicit_domain example.org\n", self.MAP)
            self.assertEqual(found, {"add_domain": wanted, "default_domain": "example.org"} if wanted else {}, states)

    def test_several_lines(self) -> None:
        """States on several lines add up."""
        found = self.names("lower_case servername_lookup\nlower_case remote_login\n", self.MAP)
        self.assertEqual(found, {"lower_case": "all"})

    def test_no_map(self) -> None:
        """Without a map nobody is looked up, and the directory has the names that backends have."""
        self.assertEqual(self.names("strip_domain all\n"), {"strip_domain": ["directory", "backend"]})
        self.assertEqual(self.names("strip_domain servername_lookup\n"), {})

    def test_ldap(self) -> None:
        """LDAP is the directory, and is asked for what Perdition asks it for."""
        library = "map_library /usr/lib/libperditiondb_ldap.so.0\n"
        self.assertEqual(self.names(f"{library}lower_case all\n"), {"lower_case": ["directory", "backend"]})
        result = self.translate(f"{library}strip_domain servername_lookup\nquery_key '\\u'\n")
        self.assertEqual(self.accepted(result)["names"], {"strip_domain": ["directory"]})
        self.assertIn("canonical one", self.said(result, "strip_domain"))
        self.assertIn("`filter`", self.said(result, "query_key"))

    def test_what_is_said(self) -> None:
        """States that are none, PAM's, and a domain for nobody."""
        result = self.translate("lower_case local_auth,nonsense\nexplicit_domain a.example\ns be1\n")
        self.assertNotIn("names", self.accepted(result))
        self.assertIn("'nonsense'", self.said(result, "lower_case"))
        self.assertIn("PAM", self.said(result, "lower_case"))
        self.assertIn("no use without add_domain", self.said(result, "explicit_domain"))

    def test_addresses(self) -> None:
        """Without explicit_domain each address has the domain of its own name, as deep as it is wanted."""
        hosts = {"198.51.100.1": "mail.au.example.org", "198.51.100.2": "mail.example.com.", "198.51.100.3": ""}
        for depth, first, second in (("", "au.example.org", "example.com"), (",2", "example.org", "com")):
            text = f"bind_address 198.51.100.1,198.51.100.2:1143,198.51.100.3\nadd_domain all{depth}\ns be1\n"
            result = self.translate(text, self.MAP, reverse=hosts.__getitem__)
            wanted = {"add_domain": "all", "domains": {"198.51.100.1": first, "198.51.100.2": second}}
            self.assertEqual(self.accepted(result)["names"], wanted)
            self.assertIn("no domain is known for 198.51.100.3: ", self.said(result, "add_domain"))
        result = self.translate("bind_address 198.51.100.1\nadd_domain all,4\ns be1\n", reverse=hosts.__getitem__)
        self.assertNotIn("names", self.accepted(result))

    def test_every_address(self) -> None:
        """Whoever listens everywhere has to say which addresses there are."""
        result = self.translate("add_domain all\ns be1\n", reverse=lambda address: "mail.example.org")
        self.assertNotIn("names", self.accepted(result))
        self.assertIn("addresses that bind_address does not name", self.said(result, "add_domain"))

    def test_delimiter(self) -> None:
        """The delimiter is the same; @ stays what it is in the values of maps."""
        result = self.translate("D +at+\ns be1\n")
        self.assertEqual(self.accepted(result)["names"], {"domain_delimiter": "+at+"})
        self.assertIn("stays @", self.said(result, "domain_delimiter"))
        self.assertEqual(self.names("D @\n"), {})

    def test_keys(self) -> None:
        """Formats become keys."""
        for text, wanted in (
            ("\\U", ["{user}"]),
            ("\\u,\\D\\d", ["{local}", "@{domain}"]),
            ("x\\\\y,,\\i:\\p \\I:\\P", ["x\\y", "{client}:{client_port} {address}:{port}"]),
        ):
            found = self.settings(f"query_key '{text}'\n", self.MAP)
            self.assertEqual(found["route"][0]["keys"], wanted, text)
        found = self.settings("D +at+\nquery_key '\\u\\Dx,\\u\\Dx'\n", self.MAP)
        self.assertEqual(found["route"][0]["keys"], ["{local}+at+x"])

    def test_keys_of_no_use(self) -> None:
        """What finds nobody in Perdition either is left out or ends the import."""
        result = self.translate("strip_domain all\nquery_key '\\d,\\u'\n", self.MAP)
        self.assertEqual(self.accepted(result)["route"][0]["keys"], ["{local}"])
        self.assertIn("left out", self.said(result, "query_key"))
        for bad, words in (("\\x", "no '\\\\x'"), ("{u}", "brace"), ("\\", "no '\\\\'"), (",", "nobody")):
            error = self.assertRaises(CannotImport, self.translate, f"query_key '{bad}'\n", self.MAP)
            self.assertIn("line 3: query_key: ", str(error))
            self.assertIn(words, str(error))
        self.assertIn("map files", self.said(self.translate("query_key x\ns be1\n"), "query_key"))

    def test_long_delimiter_in_keys(self) -> None:
        """Perdition leaves the tail of a long delimiter in front of the domain; that is told."""
        result = self.translate("D +at+\nquery_key '\\d'\n", self.MAP)
        self.assertIn("leaves 'at+' in front of it", self.said(result, "query_key"))


class OptionTests(Case):
    """Options that are limits, and those that are nothing."""

    def test_limits(self) -> None:
        """Both timeouts are limits; for ever is not."""
        found = self.settings("authenticate_timeout 300\nt 3600\ns be1\n")
        self.assertEqual(found["limits"], {"login_deadline": "300s", "idle": "3600s"})
        result = self.translate("t 0\ns be1\n")
        self.assertNotIn("limits", self.accepted(result))
        self.assertIn("for ever", self.said(result, "timeout"))

    def test_every_option(self) -> None:
        """A file with every option there is can be imported, and each one without a counterpart is explained."""
        values = {"protocol": "IMAP4", "ssl_mode": "tls_all", "bind_address": "127.0.0.1", "listen_port": "1143"}
        values |= {"outgoing_server": "be1", "outgoing_port": "143", "timeout": "60", "authenticate_timeout": "60"}
        values |= {"map_library": "/usr/lib/libperditiondb_gdbm.so.0", "ssl_ca_file": "mail.example.com.crt"}
        values |= {"ssl_cert_file": "mail.example.com.crt", "ssl_key_file": "mail.example.com.key"}
        lines = [f"{name} {values.get(name, 'x')}\n" for name in sorted(VALUED)] + [
            f"{name}\n" for name in sorted(FLAGS)
        ]
        result = self.translate("".join(lines), ("popmap", "anna:be1\n"), protocols=())
        self.accepted(result)
        for name in [*WORDS, "ssl_ca_chain_file", "username"]:
            self.assertNotEqual(self.said(result, name), "", name)

    def test_short_names(self) -> None:
        """Short names are the same options."""
        self.assertEqual(set(SHORT.values()) - FLAGS - VALUED, set())
        self.assertIn("refused on purpose", self.said(self.translate("c\ns be1\n"), "client_server_specification"))

    def test_unknown_option(self) -> None:
        """What Perdition has not is left out and said."""
        result = self.translate("nonsense 1\ns be1\n")
        self.accepted(result)
        self.assertIn("no such option", self.said(result, "nonsense"))
