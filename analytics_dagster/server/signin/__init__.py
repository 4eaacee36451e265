"""How people sign in to pages: with a key, through an OpenID provider, or by a link that works once."""
