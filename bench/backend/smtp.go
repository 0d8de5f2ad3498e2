package main

import "strings"

// SMTP as a submission server or relay speaks it: AUTH PLAIN and LOGIN, XCLIENT, PIPELINING; messages are discarded.

const smtpExtensions = "250-backend\r\n250-PIPELINING\r\n250-SIZE 104857600\r\n250-8BITMIME\r\n" +
	"250-ENHANCEDSTATUSCODES\r\n250-XCLIENT NAME ADDR PROTO HELO LOGIN\r\n250 AUTH PLAIN LOGIN\r\n"

func serveSmtp(s *session) error {
	err := s.put("220 backend ESMTP\r\n")
	for err == nil {
		var line string
		if line, err = s.line(); err != nil {
			break
		}
		words := strings.Fields(line + " .")
		if strings.EqualFold(words[0], "QUIT") {
			return s.put("221 2.0.0 bye\r\n")
		}
		err = s.smtpAnswer(words)
	}
	return err
}

func (s *session) smtpAnswer(words []string) error {
	switch strings.ToUpper(words[0]) {
	case "EHLO", "LHLO":
		return s.put(smtpExtensions)
	case "AUTH":
		return s.challenges(words, "334 \r\n", "235 2.7.0 welcome\r\n")
	case "XCLIENT":
		return s.put("220 backend ESMTP\r\n")
	case "HELO", "MAIL", "RCPT", "RSET", "NOOP":
		return s.put("250 2.0.0 good\r\n")
	case "DATA":
		if err := s.put("354 go on\r\n"); err != nil {
			return err
		}
		for {
			line, err := s.line()
			if err != nil {
				return err
			}
			if line == "." {
				return s.put("250 2.0.0 taken\r\n")
			}
		}
	}
	return s.put("500 5.5.1 unknown\r\n")
}
