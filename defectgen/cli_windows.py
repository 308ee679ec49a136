"""The command windows: what is printed."""

from __future__ import annotations

import argparse

from defectgen.cli_data import TRAINING, defect_of, spoken


def windows_text(arguments: argparse.Namespace) -> str:
    """Cut, or put back."""
    if arguments.action == "join":
        from defectgen.windows_join import join_windows

        given = arguments.samples, arguments.windows, arguments.photos, arguments.out
        named = {"layout": arguments.format, "defect": defect_of(arguments)}
        with spoken({}, "SAMPLES"):
            return f"{join_windows(*given, **named)} photos with a defect: {arguments.out}"
    from defectgen.windows import cut_defects, cut_good

    options = {name: getattr(arguments, name) for name in ("layout", "category", "split")}
    options |= {"side": arguments.side, "count": arguments.count, "drop_bad": arguments.drop_bad}
    with spoken(TRAINING, "PHOTOS"):
        if arguments.action == "goods":
            number = cut_good(arguments.photos, arguments.out, seed=arguments.seed, **options)
        else:
            photos, masks, kind = arguments.photos, arguments.masks, arguments.defect
            number = cut_defects(photos, masks, arguments.out, defect=kind, **options)
    # Without that word a backbone takes no more than 256 px.
    more = f"; train with --resolution {arguments.side}" if arguments.side > 256 else ""
    return f"{number} windows: {arguments.out}{more}"
