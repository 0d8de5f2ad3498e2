"""Settings made from the configuration of other proxies: Perdition's and nginx's."""
