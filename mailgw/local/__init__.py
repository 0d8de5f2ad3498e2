"""The embedded mail store: Maildir++ folders, served by twisted.mail's IMAP4 and POP3 servers, mended."""
