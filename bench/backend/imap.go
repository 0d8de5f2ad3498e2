package main

import (
	"bytes"
	"io"
	"strconv"
	"strings"
)

// IMAP, as much as a proxy and the load generator need: LOGIN with quoted, atom or literal arguments, AUTHENTICATE
// PLAIN with or without initial response, and
//
//	FETCH <n> BODY[]   which answers one literal of n KiB (FETCH 51200: 50 MiB)
//
// The literal repeats a 64-byte line, so that a client can check the content. APPEND discards.

const imapCapabilities = "IMAP4rev1 LITERAL+ SASL-IR AUTH=PLAIN ID"

// pattern is a whole number of 64-byte lines (62 visible + CRLF), 256 KiB.
var pattern = bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n"), 4096)

// imapCommand reads one command; short literals are put in its place, long ones are discarded. It gives the words.
func (s *session) imapCommand() ([]string, error) {
	line := ""
	for {
		part, err := s.line()
		if err != nil {
			return nil, err
		}
		line += part
		open := strings.LastIndexByte(part, '{')
		if open < 0 || !strings.HasSuffix(part, "}") {
			return strings.Fields(line), nil
		}
		number := part[open+1 : len(part)-1]
		size, err := strconv.ParseInt(strings.TrimSuffix(number, "+"), 10, 64)
		if err != nil {
			return strings.Fields(line), nil
		}
		if !strings.HasSuffix(number, "+") {
			if err := s.put("+ OK\r\n"); err != nil {
				return nil, err
			}
		}
		literal, err := s.literal(size)
		if err != nil {
			return nil, err
		}
		line = line[:len(line)-len(part)+open] + literal
	}
}

// literal reads a literal; of a long one only a sign is kept.
func (s *session) literal(size int64) (string, error) {
	if size > 4096 {
		_, err := io.CopyN(io.Discard, s.r, size)
		return "~", err
	}
	text := make([]byte, size)
	_, err := io.ReadFull(s.r, text)
	return string(text), err
}

func (s *session) fetch(tag, number string) error {
	kib, err := strconv.ParseInt(number, 10, 64)
	if err != nil || kib < 0 {
		return s.put(tag, " BAD number\r\n")
	}
	left := kib * 1024
	if err := s.put("* ", number, " FETCH (BODY[] {", strconv.FormatInt(left, 10), "}\r\n"); err != nil {
		return err
	}
	for left > 0 {
		n := int64(len(pattern))
		if n > left {
			n = left
		}
		if _, err := s.c.Write(pattern[:n]); err != nil {
			return err
		}
		left -= n
	}
	return s.put(")\r\n", tag, " OK FETCH\r\n")
}

func serveImap(s *session) error {
	err := s.put("* OK [CAPABILITY ", imapCapabilities, "] backend\r\n")
	for err == nil {
		var words []string
		if words, err = s.imapCommand(); err != nil {
			break
		}
		if len(words) < 2 {
			err = s.put("* BAD empty\r\n")
			continue
		}
		if strings.EqualFold(words[1], "LOGOUT") {
			return s.put("* BYE\r\n", words[0], " OK LOGOUT\r\n")
		}
		err = s.imapAnswer(words)
	}
	return err
}

func (s *session) imapAnswer(words []string) error {
	tag, name := words[0], strings.ToUpper(words[1])
	switch name {
	case "CAPABILITY":
		return s.put("* CAPABILITY ", imapCapabilities, "\r\n", tag, " OK CAPABILITY\r\n")
	case "ID":
		return s.put("* ID NIL\r\n", tag, " OK ID\r\n")
	case "LOGIN":
		if strings.Trim(words[len(words)-1], "\"") == "wrong" {
			return s.put(tag, " NO [AUTHENTICATIONFAILED] no\r\n")
		}
		return s.put(tag, " OK [CAPABILITY ", imapCapabilities, "] LOGIN\r\n")
	case "AUTHENTICATE":
		if len(words) < 4 {
			if err := s.put("+ \r\n"); err != nil {
				return err
			}
			if _, err := s.line(); err != nil {
				return err
			}
		}
		return s.put(tag, " OK [CAPABILITY ", imapCapabilities, "] AUTHENTICATE\r\n")
	case "SELECT", "EXAMINE":
		return s.put("* 100 EXISTS\r\n* 0 RECENT\r\n* FLAGS (\\Seen \\Deleted)\r\n* OK [UIDVALIDITY 1] ok\r\n",
			"* OK [UIDNEXT 101] ok\r\n", tag, " OK [READ-WRITE] SELECT\r\n")
	case "NOOP", "CLOSE", "CHECK":
		return s.put(tag, " OK ", name, "\r\n")
	case "FETCH":
		if len(words) > 2 {
			return s.fetch(tag, words[2])
		}
	case "APPEND":
		return s.put(tag, " OK [APPENDUID 1 101] APPEND\r\n")
	}
	return s.put(tag, " BAD unknown\r\n")
}
