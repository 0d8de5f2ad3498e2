"""Tests of L{mailgw.routing.sqlsource}."""

from __future__ import annotations

import inspect
import ssl
from unittest.mock import patch

import pymysql
from twisted.trial.unittest import SynchronousTestCase

from mailgw.routing.sqlsource import Source, Trust, checked, file_of, source_of
from tests.integration.certificates import certificates

PASSWORD = b"s3cret:@/"


def source(database: str, **trust: object) -> Source:
    return source_of(checked(database), PASSWORD, 2.5, Trust(**trust))  # type: ignore[arg-type]


class CheckedTests(SynchronousTestCase):
    """L{checked}."""

    def test_good(self) -> None:
        """Every way to write a database."""
        for database in (
            *("sqlite:/var/lib/x.db", "sqlite:x", "postgresql://u@h/d", "postgresql://u@[::1]:5433/d", "mysql://u@h/d"),
            *("postgresql:///d", "postgresql:///d?socket=/run/postgresql", "mysql://u@/d?socket=/run/mysqld.sock"),
        ):
            self.assertEqual(checked(database), database)

    def test_bad(self) -> None:
        """What is wrong is said, and the text, which may hold a password, is not."""
        for database, words in (
            ("sqlite:", "names no file"),
            ("oracle://s3cret@h/d", "must be"),
            ("/var/lib/s3cret.db", "must be"),
            ("postgresql://u:s3cret@h/d", "must hold no password"),
            ("postgresql://u:@h/d", "must hold no password"),
            ("mysql://s3cret@h", "names no database"),
            ("mysql://s3cret@h:port/d", "is no URL"),
            ("postgresql://s3cret@[h/d", "is no URL"),
            ("postgresql://u@h/d?sslmode=disable&password=s3cret", "knows nothing behind the ?"),
        ):
            said = str(self.assertRaises(ValueError, checked, database))
            self.assertIn(words, said)
            self.assertNotIn("s3cret", said)

    def test_driver_that_is_not_there(self) -> None:
        """A driver that is not installed is told with what installs it."""
        with patch("mailgw.routing.sqlsource.find_spec", return_value=None):
            said = str(self.assertRaises(ValueError, checked, "mysql://u@h/d"))
        self.assertIn("pip install 'mailgw[mysql]'", said)

    def test_file(self) -> None:
        """Only SQLite has a file."""
        self.assertEqual(file_of("sqlite:/a/b.db"), "/a/b.db")
        self.assertIsNone(file_of("mysql://u@h/d"))


class SourceTests(SynchronousTestCase):
    """L{source_of}."""

    def test_postgresql(self) -> None:
        """Parts of the URL reach libpq one by one, the password beside them."""
        options = source("postgresql://u%40x@10.0.0.1:5433/my%20mail").options
        wanted = {"user": "u@x", "host": "10.0.0.1", "port": 5433, "dbname": "my mail", "password": PASSWORD.decode()}
        self.assertEqual({key: options[key] for key in wanted}, wanted)
        self.assertEqual((options["connect_timeout"], options["tcp_user_timeout"]), (3, 2500))

    def test_postgresql_tls(self) -> None:
        """Over a network there is TLS, verified unless that is turned off; inside the machine libpq decides."""
        self.assertEqual(source("postgresql://u@h/d").options["sslmode"], "verify-full")
        self.assertEqual(source("postgresql://u@h/d").options["sslrootcert"], "system")
        self.assertEqual(source("postgresql://u@h/d", ca="/ca.pem").options["sslrootcert"], "/ca.pem")
        self.assertEqual(source("postgresql://u@h/d", verify=False).options["sslmode"], "require")
        for at_home in ("127.0.0.1", "localhost", "[::1]", ""):
            self.assertNotIn("sslmode", source(f"postgresql://u@{at_home}/d").options)
        self.assertNotIn("sslmode", source("postgresql:///d?socket=/run/postgresql").options)

    def test_postgresql_socket(self) -> None:
        """A socket's folder takes the place of a host."""
        options = source("postgresql://u@/d?socket=/run/postgresql").options
        self.assertEqual(options["host"], "/run/postgresql")
        self.assertNotIn("port", options)

    def test_mysql(self) -> None:
        """Likewise for PyMySQL; transactions only read."""
        options = source("mysql://u@10.0.0.1:3307/mail", ca=str(certificates().ca)).options
        wanted = {"user": "u", "host": "10.0.0.1", "port": 3307, "database": "mail", "password": PASSWORD.decode()}
        self.assertEqual({key: options[key] for key in wanted}, wanted)
        self.assertEqual(options["init_command"], "SET SESSION TRANSACTION READ ONLY")
        self.assertEqual({options[f"{key}_timeout"] for key in ("connect", "read", "write")}, {3})
        self.assertEqual(options["ssl"].verify_mode, ssl.CERT_REQUIRED)
        self.assertTrue(options["ssl"].check_hostname)
        inspect.signature(pymysql.connections.Connection.__init__).bind(None, **options)

    def test_mysql_without_verification(self) -> None:
        """verify = false still means TLS; a socket means none."""
        context = source("mysql://u@h/d", verify=False).options["ssl"]
        self.assertEqual((context.verify_mode, context.check_hostname), (ssl.CERT_NONE, False))
        options = source("mysql://u@/d?socket=/run/mysqld.sock").options
        self.assertEqual(options["unix_socket"], "/run/mysqld.sock")
        self.assertNotIn("ssl", options)

    def test_no_password_shown(self) -> None:
        """No repr has the password."""
        for database in ("postgresql://u@h/d", "mysql://u@h/d"):
            self.assertNotIn("s3cret", repr(source(database)))

    def test_ca_that_cannot_be_read(self) -> None:
        """PyMySQL's CA is read at once."""
        self.assertRaises(OSError, source, "mysql://u@h/d", ca="/nowhere/ca.pem")
