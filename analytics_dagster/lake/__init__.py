"""Where: table schemas, one Delta root per tenant, the operational database and the register of what is published."""
