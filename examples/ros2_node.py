"""A ROS 2 node: observations in, actions out at a fixed rate, policies from `lwd serve`. It needs rclpy and numpy, and no torch.

    python ros2_node.py --ros-args -p url:=http://192.168.0.2:8000 -p rate:=50.0

It subscribes to /observation and publishes /action (std_msgs/Float64MultiArray, raw units in the order of the policy's names). When
observations stop, when the server is gone, or when a policy fails, AsyncController does what its description says; give it a `safe` action
that suits the robot.

The tests run this file with a stand-in for rclpy. On a real ROS 2 system it is untested.
"""

from __future__ import annotations

import os
from threading import Thread

import numpy as np
import rclpy
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray

from lwd.deploy import AsyncController, RemoteGenerator


class PolicyNode(Node):
    """Steps policies in a thread of its own; rclpy's callbacks only leave the newest observation."""

    def __init__(self) -> None:
        super().__init__("lwd_policy")
        url = self.declare_parameter("url", "http://127.0.0.1:8000").value
        rate = self.declare_parameter("rate", 50.0).value
        every = self.declare_parameter("replan_every", 16).value
        self.actions = self.create_publisher(Float64MultiArray, "action", 1)
        generator = RemoteGenerator(url, os.environ.get("LWD_TOKEN"))
        self.controller = AsyncController(generator, rate, replan_every=every, safe=None, patience=max(2, round(rate / 5)))
        self.create_subscription(Float64MultiArray, "observation", lambda message: self.controller.observe(message.data), 1)
        self.thread = Thread(target=self.controller.run, args=(self.send,))
        self.thread.start()

    def send(self, action: np.ndarray) -> None:
        self.actions.publish(Float64MultiArray(data=action.tolist()))

    def destroy_node(self) -> None:
        self.controller.stop()
        self.thread.join()
        self.get_logger().info(str(self.controller.summary()))
        super().destroy_node()


def main() -> None:
    rclpy.init()
    node = PolicyNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()


if __name__ == "__main__":
    main()
