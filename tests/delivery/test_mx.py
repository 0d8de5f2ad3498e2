"""Tests of mail from the world, from the first octet to the backend or mailbox; all but the wire is in memory."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.delivery.clients import MAIL, mx
from tests.delivery.doubles import World


class MxTests(SynchronousTestCase):
    """Mail from the world."""

    def setUp(self) -> None:
        self.world = World()

    def test_local(self) -> None:
        """One copy for each mailbox, our trace on top, 250 when they are saved."""
        client = mx(self.world)
        codes = client.codes(MAIL + b"RCPT TO:<ann@d>\r\nRCPT TO:<bob@D>\r\nRCPT TO:<ANN@d>\r\nDATA\r\n")
        self.assertEqual(codes, [250, 250, 250, 250, 354])
        self.assertEqual(client.say(b"Subject: x\r\n\r\n..\r\n.\r\n"), b"250 2.0.0 saved\r\n")
        self.assertEqual([name for name, _ in self.world.store.mail], ["ann@d", "bob@d"])
        for _, text in self.world.store.mail:
            self.assertRegex(
                text,
                rb"\AReceived: from c.example \(\[192.168.1.1\]\)\r\n\tby gw.example \(mailgw\) with ESMTP id "
                rb"[a-z2-7]{16};\r\n\tThu, 01 Jan 1970 00:00:00 \+0000\r\nSubject: x\r\n\r\n\.\r\n\Z",
            )

    def test_full(self) -> None:
        """Where one mailbox has no room nobody gets a copy, and the reply is temporary."""
        self.world.store.full = {"bob@d"}
        client = mx(self.world)
        client.say(MAIL + b"RCPT TO:<ann@d>\r\nRCPT TO:<bob@d>\r\nDATA\r\n")
        self.assertEqual(client.codes(b".\r\n"), [452])
        self.assertEqual((self.world.store.mail, self.world.store.open), ([], []))

    def test_no_path(self) -> None:
        """A user whose name makes no path in the store is temporary trouble at RCPT, not after the text."""
        self.world.directory.add("../zoe@d", "odd@d")
        client = mx(self.world)
        self.assertEqual(client.codes(MAIL + b"RCPT TO:<odd@d>\r\n"), [250, 451])

    def test_recipients(self) -> None:
        """Not ours, unknown, no route, and what has another destination: each has its reply."""
        client = mx(self.world)
        client.say(MAIL)
        for recipient, reply in (
            (b"a@elsewhere", b"550 5.7.1 Relaying denied"),
            (b"a@[127.0.0.1]", b"550 5.7.1 Relaying denied"),
            (b"nobody@d", b"550 5.1.1 No such user here"),
            (b"lost@d", b"451 4.3.0 Temporary trouble, try again later"),
            (b"ann@d", b"250 2.1.5 Ok"),
            (b"zoe@d", b"452 4.5.3 Send to this recipient in a transaction of its own"),
        ):
            self.assertEqual(client.say(b"RCPT TO:<" + recipient + b">\r\n"), reply + b"\r\n")

    def test_directory_down(self) -> None:
        """Trouble with the directory is temporary trouble, never an unknown user."""
        self.world.directory.down = True
        self.assertEqual(mx(self.world).codes(MAIL + b"RCPT TO:<ann@d>\r\n"), [250, 451])

    def test_directory_hangs(self) -> None:
        """A client has its answer within fifteen seconds, and the next one when all is well again."""
        self.world.directory.waiting = Deferred()
        client = mx(self.world)
        self.assertEqual(client.codes(MAIL + b"RCPT TO:<ann@d>\r\nNOOP\r\n", 14), [250])
        self.world.directory.waiting = None
        self.assertEqual(client.codes(b"RCPT TO:<ann@d>\r\n", 1), [451, 250, 250])

    def test_onward(self) -> None:
        """A message goes to the backend with its parameters, both recipients in one transaction, nobody logged in."""
        client = mx(self.world)
        codes = client.codes(MAIL + b"RCPT TO:<zoe@d>\r\nRCPT TO:<zack@d>\r\nDATA\r\n")
        self.assertEqual(codes, [250, 250, 250, 354])
        self.assertEqual(client.say(b"a\r\n..\r\n.\r\n"), b"250 2.0.0 stored\r\n")
        self.assertEqual(
            self.world.be1.commands,
            [
                "EHLO gw.example",
                "MAIL FROM:<a@x> SIZE=10 BODY=8BITMIME",
                "RCPT TO:<zoe@d>",
                "RCPT TO:<zack@d>",
                "DATA",
            ],
        )
        self.assertRegex(self.world.be1.messages[0], rb"\AReceived: [^\0]*\r\na\r\n\.\.\r\n\Z")

    def test_second_backend(self) -> None:
        """A recipient on another backend has to come again; the first one's mail goes."""
        client = mx(self.world)
        codes = client.codes(MAIL + b"RCPT TO:<zoe@d>\r\nRCPT TO:<yves@d>\r\nRCPT TO:<ann@d>\r\nDATA\r\n")
        self.assertEqual(codes, [250, 250, 452, 452, 354])
        self.assertEqual(client.codes(b".\r\n" + MAIL + b"RCPT TO:<yves@d>\r\nDATA\r\n"), [250, 250, 250, 354])
        self.assertEqual(client.codes(b".\r\n"), [250])
        self.assertEqual(
            self.world.dialer.backends["be2"].commands[-3:-1],
            [
                "MAIL FROM:<a@x> SIZE=10 BODY=8BITMIME",
                "RCPT TO:<yves@d>",
            ],
        )

    def test_backend_says_no(self) -> None:
        """The backend's verdict on a recipient or a sender is passed on at once; other backends are free then."""
        self.world.be1.replies = {"RCPT TO:<zoe@d>": "550-5.7.9 not\n550 5.7.9 today"}
        client = mx(self.world)
        client.say(MAIL)
        self.assertEqual(client.say(b"RCPT TO:<zoe@d>\r\n"), b"550-5.7.9 not\r\n550 5.7.9 today\r\n")
        self.assertEqual(client.codes(b"RCPT TO:<ann@d>\r\n"), [250])
        self.world.be1.replies = {"MAIL": "452 4.2.2 full", "RCPT": "503 5.5.1 what?"}
        client.say(b"RSET\r\n" + MAIL)
        self.assertEqual(client.say(b"RCPT TO:<zoe@d>\r\nRCPT TO:<zack@d>\r\n"), b"452 4.2.2 full\r\n" * 2)

    def test_backend_without_pipelining(self) -> None:
        """To such a backend MAIL and RCPT go one by one."""
        self.world.be1.extensions = ()
        self.world.be1.replies = {"MAIL": "452 4.2.2 full"}
        self.assertEqual(mx(self.world).codes(MAIL + b"RCPT TO:<zoe@d>\r\n"), [250, 452])
        self.assertEqual(self.world.be1.commands, ["EHLO gw.example", "MAIL FROM:<a@x>"])

    def test_our_own_fault(self) -> None:
        """What a backend says about us, and not about the mail, no client sees."""
        for reply in ("530 5.7.0 Authentication required", "503 5.5.1 AUTH first"):
            self.world.be1.replies = {"MAIL": reply}
            said = mx(self.world).say(MAIL + b"RCPT TO:<zoe@d>\r\n")
            self.assertTrue(said.endswith(b"Ok\r\n451 4.3.0 Temporary trouble, try again later\r\n"), said)

    def test_backend_trouble(self) -> None:
        """Refused connections, silence, garbage and hang-ups are 451 within fifteen seconds, whatever the phase."""
        for replies in (
            {"EHLO": None},
            {"EHLO": "CLOSE"},
            {"MAIL": "CLOSE"},
            {"RCPT": None},
            {"RCPT": "* BAD"},
            {"MAIL": None},
            {"RCPT": "421 4.3.2 going down"},
            {"EHLO": "554 no"},
        ):
            self.world.be1.replies = replies
            client = mx(self.world)
            self.assertEqual(client.codes(MAIL), [250])
            said = client.say(b"RCPT TO:<zoe@d>\r\n", 15)
            self.assertEqual(said, b"451 4.3.0 Temporary trouble, try again later\r\n", replies)
            self.assertEqual(client.codes(b"DATA\r\n"), [554])
            self.assertTrue(all(pipe.gone for pipe in self.world.be1.connections))
        self.world.dialer.hanging = True
        self.assertEqual(mx(self.world).codes(MAIL + b"RCPT TO:<zoe@d>\r\n", 15), [250, 451])

    def test_data_refused(self) -> None:
        """The backend's word on DATA is passed on, and its silence is 451."""
        for reply, code in (
            ("554 5.7.1 no", 554),
            ("452 4.3.1 full", 452),
            (None, 451),
            ("CLOSE", 451),
            ("250 ?", 451),
        ):
            self.world.be1.replies = {"DATA": reply}
            self.assertEqual(mx(self.world).codes(MAIL + b"RCPT TO:<zoe@d>\r\nDATA\r\n", 90), [250, 250, code])

    def test_final_reply(self) -> None:
        """After the dot the backend's word is the word; trouble is 451, and silence is waited for ten minutes."""
        for reply, code in (("550 5.7.1 spam", 550), ("451 4.7.1 later", 451), ("CLOSE", 451), ("* what", 451)):
            self.world.be1.finals = [reply]
            client = mx(self.world)
            client.say(MAIL + b"RCPT TO:<zoe@d>\r\nDATA\r\n")
            self.assertEqual(client.codes(b"x\r\n.\r\nQUIT\r\n"), [code, 221])
        self.world.be1.finals = [None]
        client = mx(self.world)
        client.say(MAIL + b"RCPT TO:<zoe@d>\r\nDATA\r\n")
        self.assertEqual(client.codes(b"x\r\n.\r\n", 599), [])
        self.assertEqual(client.codes(b"NOOP\r\n", 1), [451, 250])

    def test_lost_in_the_middle(self) -> None:
        """A backend that dies in the middle of a message: the client sends to the end, and hears 451."""
        client = mx(self.world)
        client.say(MAIL + b"RCPT TO:<zoe@d>\r\nDATA\r\n")
        self.world.be1.pipe.loseConnection()
        self.assertEqual(client.codes(b"x\r\n" * 1000), [])
        self.assertEqual(client.codes(b".\r\nNOOP\r\n"), [451, 250])
        self.assertEqual(self.world.be1.messages, [])

    def test_faulty_message(self) -> None:
        """A faulty message is refused, and the backend sees neither its end nor anything uncanny of it."""
        client = mx(self.world)
        client.say(MAIL + b"RCPT TO:<zoe@d>\r\nDATA\r\n")
        self.assertEqual(client.codes(b"good\r\nbad\nline\r\n.\r\n"), [550])
        self.assertTrue(self.world.be1.pipe.aborted)
        self.assertNotRegex(self.world.be1.pipe.value(), rb"\r(?!\n)|(?<!\r)\n|\r\n\.\r\n")

    def test_client_lost(self) -> None:
        """A client that goes in the middle of a message leaves nothing in the backend or the store."""
        for recipient in (b"zoe@d", b"ann@d"):
            client = mx(self.world)
            client.say(MAIL + b"RCPT TO:<" + recipient + b">\r\nDATA\r\n")
            client.say(b"x\r\n")
            client.pipe.loseConnection()
            client.read()
        self.assertTrue(self.world.be1.pipe.aborted)
        self.assertEqual((self.world.store.open, self.world.sessions, self.world.be1.messages), ([], set(), []))

    def test_client_lost_at_the_end(self) -> None:
        """A complete message is delivered even when its sender does not wait for the reply."""
        client = mx(self.world)
        client.say(MAIL + b"RCPT TO:<zoe@d>\r\nDATA\r\n")
        client.session.dataReceived(b"x\r\n.\r\n")
        client.pipe.loseConnection()
        client.read()
        self.assertEqual(len(self.world.be1.messages), 1)
        self.assertTrue(self.world.be1.pipe.gone)

    def test_loop(self) -> None:
        """More than a hundred Received headers are a loop."""
        for count, code in ((100, 250), (101, 554)):
            client = mx(self.world)
            client.say(MAIL + b"RCPT TO:<ann@d>\r\nDATA\r\n")
            self.assertEqual(client.codes(b"Received: x\r\n" * count + b"\r\nReceived: y\r\n.\r\n"), [code])

    def test_backpressure(self) -> None:
        """A backend that does not read stops the reading from the client; when it reads again, all goes on."""
        client = mx(self.world)
        client.say(MAIL + b"RCPT TO:<zoe@d>\r\nDATA\r\n")
        pipe = self.world.be1.pipe
        pipe.full = True
        client.say(b"x\r\n")
        self.assertEqual(client.pipe.producerState, "paused")
        pipe.full = False
        pipe.producer.resumeProducing()
        self.assertEqual(client.pipe.producerState, "producing")
        self.assertEqual(client.codes(b".\r\n"), [250])
        self.assertIsNone(pipe.producer)

    def test_end_while_full(self) -> None:
        """When the message ends while the backend is behind, the client is read again afterwards."""
        client = mx(self.world)
        client.say(MAIL + b"RCPT TO:<zoe@d>\r\nDATA\r\n")
        self.world.be1.pipe.full = True
        self.assertEqual(client.codes(b"x\r\n.\r\n"), [250])
        self.assertEqual(client.pipe.producerState, "producing")

    def test_stalled(self) -> None:
        """A backend that reads nothing for three minutes is given up, and the client is told at the end."""
        client = mx(self.world)
        client.say(MAIL + b"RCPT TO:<zoe@d>\r\nDATA\r\n")
        self.world.be1.pipe.full = True
        client.say(b"x\r\n", 181)
        self.assertTrue(self.world.be1.pipe.aborted)
        self.assertEqual(client.pipe.producerState, "producing")
        self.assertEqual(client.codes(b".\r\n"), [451])

    def test_connection_reused(self) -> None:
        """The next message takes the same connection; where that has died meanwhile, a new one."""
        client = mx(self.world)
        envelope = MAIL + b"RCPT TO:<zoe@d>\r\nDATA\r\n"
        for _ in range(3):
            self.assertEqual(client.codes(envelope)[-1], 354)
            self.assertEqual(client.codes(b".\r\n"), [250])
        self.assertEqual(len(self.world.be1.connections), 1)
        self.world.be1.pipe.loseConnection()
        client.read()
        self.assertEqual(client.codes(envelope)[-1], 354)
        self.assertEqual(client.codes(b".\r\n"), [250])
        self.world.be1.once = {"MAIL": "421 4.4.2 idle for too long"}
        self.assertEqual(client.codes(envelope)[-1], 354)
        self.assertEqual(client.codes(b".\r\nQUIT\r\n"), [250, 221])
        client.read(6)
        self.assertTrue(all(pipe.gone for pipe in self.world.be1.connections))
        opened, closed = (self.world.pools["main"].log.count((word, "be1")) for word in ("opened", "closed"))
        self.assertEqual((opened, closed), (3, 3))

    def test_reset(self) -> None:
        """RSET before the text parts from the backend politely."""
        client = mx(self.world)
        client.say(MAIL + b"RCPT TO:<zoe@d>\r\n")
        self.assertEqual(client.codes(b"RSET\r\n"), [250])
        self.assertEqual((self.world.be1.commands[-1], self.world.be1.pipe.aborted), ("QUIT", False))

    def test_next_member(self) -> None:
        """A member that cannot be connected to is passed over where there is a next one."""
        self.world.pools["main"].hosts = ["dead", "be1"]
        self.world.router.routes["zoe@d"] = self.world.router.routes["zoe@d"].__class__("main")
        self.assertEqual(mx(self.world).codes(MAIL + b"RCPT TO:<zoe@d>\r\n"), [250, 250])
        self.assertEqual(self.world.pools["main"].log[:2], [("failed", "dead"), ("succeeded", "be1")])
