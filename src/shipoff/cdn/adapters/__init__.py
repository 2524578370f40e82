"""Where the cdn meets drivers, the file system and Caddy."""
