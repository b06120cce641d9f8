"""How is a network wired? Its parts, found by what flows through them."""
