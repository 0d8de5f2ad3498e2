"""Mail in transit: what happens from the first MAIL on."""
