package main

var pop3 = dialogue{
	greet:    func(c *client) error { return c.expect("+OK") },
	starttls: func(c *client) error { return c.ask("STLS", "+OK") },
	login: func(c *client, user string) error {
		if err := c.ask("USER "+user, "+OK"); err != nil {
			return err
		}
		if err := c.ask("PASS "+*pass, "+OK"); err != nil {
			return err
		}
		return c.ask("STAT", "+OK")
	},
	noop:   func(c *client) error { return c.ask("NOOP", "+OK") },
	logout: func(c *client) error { return c.ask("QUIT", "+OK") },
}

// ask sends one command and expects an answer of one line.
func (c *client) ask(text, start string) error {
	if err := c.put(text + "\r\n"); err != nil {
		return err
	}
	return c.expect(start)
}
