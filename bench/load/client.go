package main

import (
	"bufio"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

// One connection, before it matters what is spoken on it.

// dialogue is what a protocol says. Each step fails unless the server agrees.
type dialogue struct {
	greet    func(*client) error
	starttls func(*client) error
	login    func(*client, string) error // log in as a user and do one small thing
	noop     func(*client) error
	logout   func(*client) error
}

var dialogues = map[string]dialogue{"imap": imap, "pop3": pop3, "smtp": smtp}

type client struct {
	dialogue
	c   net.Conn
	r   *bufio.Reader
	seq int
	buf []byte
}

// handshake tells what was negotiated, and the certificate, of the last connection.
var handshake atomic.Value

var suites = map[string]uint16{}

func config(cache tls.ClientSessionCache) *tls.Config {
	c := &tls.Config{InsecureSkipVerify: true, ServerName: *name, ClientSessionCache: cache}
	if *maxVer == "1.2" {
		c.MaxVersion = tls.VersionTLS12
	}
	if *cipher != "" {
		for _, s := range tls.CipherSuites() {
			suites[s.Name] = s.ID
		}
		c.CipherSuites = []uint16{suites[*cipher]}
	}
	return c
}

// configs gives each worker its own, so that with -resume each has its own sessions.
func configs() []*tls.Config {
	all := make([]*tls.Config, *conc)
	for i := range all {
		if *resume {
			all[i] = config(tls.NewLRUClientSessionCache(4))
		} else {
			all[i] = config(nil)
		}
	}
	return all
}

// dial opens a connection and brings it to the point where one may log in.
func dial(cfg *tls.Config, worker int, small bool) (*client, error) {
	// several source addresses, so that ports in TIME_WAIT do not run out
	d := net.Dialer{Timeout: *timeout, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+worker%60))}}
	nc, err := d.Dial("tcp", *addr)
	if err != nil {
		return nil, err
	}
	nc.SetDeadline(time.Now().Add(*timeout))
	size := 65536
	if small {
		size = 512
	}
	c := &client{dialogue: dialogues[*protocol], c: nc, r: bufio.NewReaderSize(nc, size)}
	if err := c.open(cfg, size); err != nil {
		nc.Close()
		return nil, err
	}
	return c, nil
}

func (c *client) open(cfg *tls.Config, size int) error {
	if *tlsMode == "implicit" {
		if err := c.secure(cfg, size); err != nil {
			return err
		}
	}
	if err := c.greet(c); err != nil || *tlsMode != "starttls" {
		return err
	}
	if err := c.starttls(c); err != nil {
		return err
	}
	return c.secure(cfg, size)
}

func (c *client) secure(cfg *tls.Config, size int) error {
	t := tls.Client(c.c, cfg)
	if err := t.Handshake(); err != nil {
		return err
	}
	state := t.ConnectionState()
	if state.DidResume {
		atomic.AddInt64(&resumed, 1)
	}
	sum := sha256.Sum256(state.PeerCertificates[0].Raw)
	version := map[uint16]string{tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3"}[state.Version]
	handshake.Store(version + " " + tls.CipherSuiteName(state.CipherSuite) + " " + hex.EncodeToString(sum[:8]))
	c.c, c.r = t, bufio.NewReaderSize(t, size)
	return nil
}

func (c *client) put(text string) error {
	_, err := io.WriteString(c.c, text)
	return err
}

func (c *client) line() (string, error) {
	s, err := c.r.ReadString('\n')
	return strings.TrimRight(s, "\r\n"), err
}

// expect reads one line, which must begin so.
func (c *client) expect(start string) error {
	l, err := c.line()
	if err != nil {
		return err
	}
	if !strings.HasPrefix(l, start) {
		return fmt.Errorf("unexpected answer %q", l)
	}
	return nil
}
