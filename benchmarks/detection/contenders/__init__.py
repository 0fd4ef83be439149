"""Who is compared: each says in which panes of a stream it is in alarm, at a setting of its one knob."""
