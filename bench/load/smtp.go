package main

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// Submission: to log in is not enough here, because a gateway may not even look for the next server before MAIL. So
// each session hands in one small message.

var smtp = dialogue{
	greet: func(c *client) error {
		if err := c.reply("220"); err != nil {
			return err
		}
		return c.send("EHLO client.example.com", "250")
	},
	starttls: func(c *client) error { return c.send("STARTTLS", "220") },
	login: func(c *client, user string) error {
		if *tlsMode == "starttls" {
			if err := c.send("EHLO client.example.com", "250"); err != nil {
				return err
			}
		}
		secret := base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + *pass))
		if err := c.send("AUTH PLAIN "+secret, "235"); err != nil {
			return err
		}
		return c.submit(user)
	},
	noop:   func(c *client) error { return c.send("NOOP", "250") },
	logout: func(c *client) error { return c.send("QUIT", "221") },
}

var message = "Subject: measured\r\n\r\n" + strings.Repeat("A line of a small message, sixty-two octets before its end.\r\n", 16) + "."

// submit hands in one message.
func (c *client) submit(user string) error {
	for _, step := range [][2]string{
		{"MAIL FROM:<" + user + ">", "250"}, {"RCPT TO:<somebody@example.net>", "250"}, {"DATA", "354"},
		{"From: " + user + "\r\n" + message, "250"},
	} {
		if err := c.send(step[0], step[1]); err != nil {
			return err
		}
	}
	return nil
}

// send sends one command and expects an answer with this code.
func (c *client) send(text, code string) error {
	if err := c.put(text + "\r\n"); err != nil {
		return err
	}
	return c.reply(code)
}

// reply reads an answer of one or more lines.
func (c *client) reply(code string) error {
	for {
		l, err := c.line()
		if err != nil {
			return err
		}
		if !strings.HasPrefix(l, code) {
			return fmt.Errorf("unexpected answer %q", l)
		}
		if len(l) < 4 || l[3] != '-' {
			return nil
		}
	}
}
