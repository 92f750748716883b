"""Serve an index as a web page and a JSON API.

universal-embedding serve --index=photos.index [--port=8000]
"""

import argparse

from universal_embedding.commands.arguments import (
    add_index_flags,
    comma_list,
    float_between,
    int_at_least,
)
from universal_embedding.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `serve`."""
    add_index_flags(parser)
    add = parser.add_argument
    host_help = "Address to listen on; any but loopback makes the images public."
    add("--host", default="127.0.0.1", help=host_help)
    add("--port", type=int_at_least(0), default=8000, help="Port; 0 takes a free one.")
    add("--max_upload_mb", type=int_at_least(1), default=16, help="Maximum upload size in MB.")
    hosts_help = "Further host names to answer to, comma-separated, such as that of a proxy."
    add("--allowed_hosts", type=comma_list, default=[], help=hosts_help)
    add("--max_distance", type=float_between(0.0, 2.0), help="Leave out matches farther than this.")


def run(args: argparse.Namespace) -> None:
    """Serves until interrupted."""
    if args.port > 65535:
        raise UserError(f"--port={args.port} is not a port; give 0 to 65535")
    from universal_embedding.app.pages import ServerLimits
    from universal_embedding.app.searchable import open_index
    from universal_embedding.app.server import serve

    index = open_index(args.index, args.model, args.exact_search_below)
    if not index.is_exact:
        print(index.describe_approximation())
    limits = ServerLimits(upload_bytes=args.max_upload_mb << 20)
    serve(index, args.host, args.port, limits, args.max_distance, args.allowed_hosts)
