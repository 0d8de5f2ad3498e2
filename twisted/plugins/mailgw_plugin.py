"""Makes C{twistd mailgw} known. Every C{twistd --help} reads this file, so it imports nothing of mailgw."""

from twisted.application.service import ServiceMaker

mailgw = ServiceMaker("mailgw", "mailgw.tap", "A mail gateway for IMAP, POP3 and SMTP", "mailgw")
