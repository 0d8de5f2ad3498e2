package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

var imap = dialogue{
	greet:    func(c *client) error { return c.expect("* OK") },
	starttls: func(c *client) error { return c.command("STARTTLS") },
	login: func(c *client, user string) error {
		if err := c.command(`LOGIN "` + user + `" "` + *pass + `"`); err != nil {
			return err
		}
		return c.command("SELECT INBOX")
	},
	noop:   func(c *client) error { return c.command("NOOP") },
	logout: func(c *client) error { return c.command("LOGOUT") },
}

func (c *client) tag() string {
	c.seq++
	return "a" + strconv.Itoa(c.seq)
}

// command sends one command and reads up to its tagged OK.
func (c *client) command(text string) error {
	tag := c.tag()
	if err := c.put(tag + " " + text + "\r\n"); err != nil {
		return err
	}
	return c.tagged(tag)
}

func (c *client) tagged(tag string) error {
	for {
		l, err := c.line()
		if err != nil {
			return err
		}
		if strings.HasPrefix(l, tag+" ") {
			if !strings.HasPrefix(l, tag+" OK") {
				return errors.New(l)
			}
			return nil
		}
	}
}

// fetch downloads one literal and returns its size.
func (c *client) fetch() (int64, error) {
	tag := c.tag()
	if err := c.put(tag + " FETCH " + strconv.Itoa(*kib) + " BODY[]\r\n"); err != nil {
		return 0, err
	}
	l, err := c.line()
	if err != nil {
		return 0, err
	}
	size := int64(*kib) * 1024
	if !strings.HasSuffix(l, "{"+strconv.FormatInt(size, 10)+"}") {
		return 0, fmt.Errorf("wrong literal: %q", l)
	}
	if c.buf == nil {
		c.buf = make([]byte, 256*1024)
	}
	for left := size; left > 0; {
		b := c.buf
		if int64(len(b)) > left {
			b = b[:left]
		}
		n, err := c.r.Read(b)
		if err != nil {
			return 0, err
		}
		// cheap content check: each 64-byte line ends with LF
		if k := 63 - (size-left)%64; k < int64(n) && b[k] != '\n' {
			return 0, errors.New("corrupt literal")
		}
		left -= int64(n)
	}
	return size, c.tagged(tag)
}

var uploaded = []byte(strings.Repeat("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\r\n", 4096))

// upload appends one message and returns its size.
func (c *client) upload() (int64, error) {
	tag, size := c.tag(), *kib*1024
	if err := c.put(fmt.Sprintf("%s APPEND INBOX {%d+}\r\n", tag, size)); err != nil {
		return 0, err
	}
	for left := size; left > 0; {
		k := len(uploaded)
		if k > left {
			k = left
		}
		if _, err := c.c.Write(uploaded[:k]); err != nil {
			return 0, err
		}
		left -= k
	}
	if err := c.put("\r\n"); err != nil {
		return 0, err
	}
	return int64(size), c.tagged(tag)
}
