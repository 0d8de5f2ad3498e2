"""Tests of L{mailgw.importing.command}, by way of the C{mailgw} command."""

from __future__ import annotations

import io
import socket
import stat
from contextlib import redirect_stderr
from pathlib import Path

from mailgw.importing import command
from tests.test_cli import Case

NGINX = "mail { auth_http localhost/a; include servers/*; include one; }\n"


class ImportTests(Case):
    """C{mailgw import}."""

    def setUp(self) -> None:
        super().setUp()
        self.old = self.folder / "perdition.conf"
        self.old.write_text("protocol IMAP4\nno_lookup\noutgoing_server be1\nM ''\n")
        self.new = self.folder / "new.toml"

    def test_print(self) -> None:
        """The settings are printed, no settings file is asked for, and check takes them."""
        self.assertEqual(self.run_bare("import", str(self.old)), 0)
        self.assertIn('protocol = "imap"', self.out)
        self.assertEqual(self.err, "")
        self.config.write_text(self.out.replace("be1", "192.0.2.1"))
        self.assertEqual(self.run_command("check"), 0, self.out)

    def test_write(self) -> None:
        """A file for nobody else's eyes; what has no counterpart is printed, and what to do next."""
        self.assertEqual(self.run_bare("import", str(self.old), "-o", str(self.new)), 0)
        self.assertIn("line 2, no_lookup: no counterpart", self.out)
        self.assertIn(f"mailgw check --config {self.new}", self.out)
        self.assertEqual(stat.S_IMODE(self.new.stat().st_mode), 0o600)

    def test_never_overwrites(self) -> None:
        """A file that is there stays as it is."""
        self.new.write_text("mine")
        self.assertEqual(self.run_bare("import", str(self.old), "-o", str(self.new)), 1)
        self.assertIn("File exists", self.err)
        self.assertEqual(self.new.read_text(), "mine")

    def test_maps(self) -> None:
        """Map files are named by absolute paths; relative ones on the command line start where it runs."""
        popmap = self.folder / "popmap.re"
        popmap.write_text("^a: be1\n")
        self.assertEqual(self.run_bare("import", str(self.old), str(popmap)), 0)
        self.assertIn(f'file = "{popmap}"\nmatch = "regex"', self.out)

    def test_map_of_the_file(self) -> None:
        """Without maps on the command line the one that the file names is taken, where its text is there."""
        popmap = self.folder / "users"
        popmap.write_text("anna:be1\n")
        self.old.write_text(f"protocol IMAP4\nmap_library_opt {popmap}.gdbm.db\n")
        self.assertEqual(self.run_bare("import", str(self.old)), 0)
        self.assertIn(f'file = "{popmap}"', self.out)
        popmap.unlink()
        self.assertEqual(self.run_bare("import", str(self.old)), 1)
        self.assertIn(f"{self.old}: line 2: map_library_opt: the text of the map is not there", self.err)

    def test_name_of_the_file(self) -> None:
        """perdition.pop3s.conf is for POP3S, --protocol says otherwise."""
        other = self.old.rename(self.folder / "perdition.pop3.conf")
        other.write_text("outgoing_server be1\n")
        self.assertEqual(self.run_bare("import", str(other)), 0)
        self.assertIn('endpoint = "tcp:110"', self.out)
        self.assertEqual(self.run_bare("import", str(other), "--protocol", "IMAP4"), 0)
        self.assertIn('endpoint = "tcp:143"', self.out)

    def test_nginx(self) -> None:
        """An nginx.conf is told by its braces; its includes start beside it, with wildcards in their order."""
        main = self.folder / "nginx.conf"
        main.write_text(NGINX)
        (self.folder / "servers").mkdir()
        for name, port in (("b", 110), ("a", 143)):
            (self.folder / "servers" / name).write_text(f"server {{ listen {port}; }}")
        self.assertEqual(self.run_bare("import", str(main)), 1)
        self.assertIn("one: No such file", self.err)
        (self.folder / "one").write_text("")
        self.assertEqual(self.run_bare("import", str(main)), 0, self.err)
        self.assertLess(self.out.index("tcp:143"), self.out.index("tcp:110"))
        self.assertEqual(self.run_bare("import", str(main), "popmap"), 1)
        self.assertIn("go with a perdition.conf", self.err)

    def test_faults(self) -> None:
        """What cannot be read or understood is exit status 1, with the file and one line of words."""
        self.assertEqual(self.run_bare("import", str(self.folder / "nowhere")), 1)
        self.assertIn("nowhere: No such file", self.err)
        self.old.write_text("ssl_mode 'tls\n")
        self.assertEqual(self.run_bare("import", str(self.old)), 1)
        self.assertEqual(self.err, f"mailgw: {self.old}: line 1: a ' is not closed\n")

    def test_hostname(self) -> None:
        """A machine whose name is none is localhost."""
        self.patch(socket, "getfqdn", lambda: "what a name!")
        with redirect_stderr(io.StringIO()) as said:
            self.assertEqual(command.hostname(), "localhost")
        self.assertIn("'what a name!' is no host name", said.getvalue())
        self.patch(socket, "getfqdn", lambda: "Mail.Example.com")
        self.assertEqual(command.hostname(), "mail.example.com")

    def test_octets(self) -> None:
        """A comment in another encoding is no obstacle."""
        path = Path(self.folder / "latin")
        path.write_bytes(b"# caf\xe9\n")
        self.assertEqual(command.read(str(path)), "# caf\ufffd\n")
