package main

import "strings"

// POP3 with one message that is never fetched: USER and PASS, SASL PLAIN and LOGIN, STAT, NOOP.

func servePop3(s *session) error {
	err := s.put("+OK backend\r\n")
	for err == nil {
		var line string
		if line, err = s.line(); err != nil {
			break
		}
		words := strings.Fields(line + " .")
		if strings.EqualFold(words[0], "QUIT") {
			return s.put("+OK\r\n")
		}
		err = s.pop3Answer(words)
	}
	return err
}

func (s *session) pop3Answer(words []string) error {
	switch strings.ToUpper(words[0]) {
	case "CAPA":
		return s.put("+OK\r\nUSER\r\nSASL PLAIN LOGIN\r\nUIDL\r\nTOP\r\nPIPELINING\r\n.\r\n")
	case "PASS":
		if words[1] == "wrong" {
			return s.put("-ERR [AUTH] no\r\n")
		}
	case "AUTH":
		return s.challenges(words, "+ \r\n", "+OK\r\n")
	case "STAT":
		return s.put("+OK 1 1024\r\n")
	case "USER", "NOOP":
	default:
		return s.put("-ERR unknown\r\n")
	}
	return s.put("+OK\r\n")
}

// challenges asks for what AUTH did not bring: one answer for PLAIN, two for LOGIN. The words end with a ".".
func (s *session) challenges(words []string, ask, good string) error {
	answers := 1
	if strings.EqualFold(words[1], "LOGIN") {
		answers = 2
	}
	for answers -= len(words) - 3; answers > 0; answers-- {
		if err := s.put(ask); err != nil {
			return err
		}
		if _, err := s.line(); err != nil {
			return err
		}
	}
	return s.put(good)
}
