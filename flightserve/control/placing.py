"""Where a child of an app that spans nodes is: its node, an address of that, and the app's folder there."""

from __future__ import annotations

import dataclasses

from flightserve.control.names import node_folder
from flightserve.control.plan import Assignment


def placed(assignment: Assignment) -> Assignment:
    """The assignment as it is for this process, which Ray has put somewhere."""
    if not assignment.spans:
        return assignment
    import ray

    node, host = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
    folder = assignment.folder if node == assignment.home else node_folder(assignment.app_id, node)
    return dataclasses.replace(assignment, node=node, host=host, folder=folder)
