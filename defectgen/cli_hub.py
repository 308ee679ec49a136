"""The commands that deal with hubs, zoo and push: each returns what is printed."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path

# As in cli.py, what is heavy is imported late.


def zoo_text(arguments: argparse.Namespace) -> str:
    """List, show, train or publish."""
    from defectgen import zoo
    from defectgen.registry import use_zoo

    with nullcontext() if arguments.zoo is None else use_zoo(Path(arguments.zoo)):
        if arguments.action == "list":
            return "\n".join(zoo.list_lines())
        if arguments.action == "show":
            return "\n".join(zoo.show_lines(arguments.name))
        return _publish(arguments) if arguments.action == "publish" else _train(arguments)


def _train(arguments: argparse.Namespace) -> str:
    from defectgen import zoo
    from defectgen.experiment_settings import Settings

    settings = Settings(
        resolution=arguments.resolution,
        kimg=arguments.kimg,
        defect_kimg=arguments.defect_kimg,
        precision=arguments.precision,
        seed=arguments.seed,
        device=arguments.device,
        verbose=arguments.verbose,
    )
    data = Path(arguments.data)
    names = zoo.names_for(data) if arguments.all else [arguments.name]
    return zoo.train(names, data, Path(arguments.out), settings)


def _publish(arguments: argparse.Namespace) -> str:
    from defectgen import zoo
    from defectgen.publish import Terms, publish, repository
    from defectgen.registry import zoo_record

    record = zoo_record(arguments.name)
    repo_id = repository(record, arguments.namespace, arguments.repo_id)
    publish(
        arguments.name,
        Path(arguments.data),
        Path(arguments.source),
        Terms(arguments.license, repo_id, arguments.private),
        device=arguments.device,
    )
    return "\n".join(zoo.show_lines(arguments.name))


def push_text(arguments: argparse.Namespace) -> str:
    """Publish a weights folder of either kind.

    Raises:
        WeightsError: it is no such folder, or the hub refuses.
        ConfigError: an argument is outside its rule.
    """
    from defectgen.backbone import Backbone
    from defectgen.hub import check_push
    from defectgen.synthesizer import DefectSynthesizer
    from defectgen.weights import read_config

    check_push(arguments.repo_id, arguments.license, None)
    folder = Path(arguments.folder)
    backbone = read_config(folder)["kind"] == "backbone"
    thing = (Backbone if backbone else DefectSynthesizer).from_pretrained(folder)
    commit = thing.push_to_hub(
        arguments.repo_id,
        license=arguments.license,
        training_data=arguments.training_data,
        private=arguments.private,
    )
    return f"{arguments.repo_id} at {commit}"
