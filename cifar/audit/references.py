"""Files that others published about the test images: people's labels, known faults, other models' predictions.

Everything is indexed by the original order of the 10,000 test images, and nothing of it is shipped: each file comes
from its source at a fixed commit, is checked against its SHA-256, and is kept in `references` below the cache folder.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests

from cifar.data.cache import make_cache_folder
from cifar.data.sources import ATTEMPTS, Pace, Progress, Say, fetch_rest, reason_of
from cifar.errors import InputError, WorldError

SERVER = "https://raw.githubusercontent.com"
CIFAR10H = "jcpeterson/cifar-10h/48da312b193b82e6939ec20f23d1f09cbdd849c8"
CLEANLAB = "cleanlab/label-errors/6d5d6b31a13216290afc40e5c6319399c4d15c06"
CIFAIR = "cvjena/cifair/4c2764277f5fda8fec6784a78c1818eab13236c5"
PUBLISHED = "modestyachts/CIFAR-10.1/d9982abb0bfc4846b8d13a11e66b887d946205d0/model_predictions/original_predictions"


@dataclass(frozen=True)
class Reference:
    """A published file.

    Attributes:
        path: repository, commit and the file's path there.
        sha256: of its bytes.
        licence: in words; a file without a stated one is never passed on.
        what: one line on its content.
    """

    path: str
    sha256: str
    licence: str
    what: str

    @property
    def url(self) -> str:
        """Where it comes from."""
        return f"{SERVER}/{self.path}"


# The networks of Recht et al. 2018 ("Do CIFAR-10 classifiers generalize to CIFAR-10?"), and the SHA-256 of their files.
PUBLISHED_MODELS = {
    "alexnet_tf_ben": "3c5251a7033db81bcb653062c57471d04713d9bb34b0668d8c79fd5332b41f94",
    "cudaconvnet": "87045a28e8f6ba958c1a7278c3bff74f59e725707d45a55bd9647e315438783b",
    "darc": "15fb4c7eb37658aac399c27874c542638ff871f726442321ee635f85bca35336",
    "densenet_BC_100_12": "6ae63cd25bda2cb1a0b1bbe156f48a262fed899a2b4fdfde4d8872babbe74e93",
    "nas": "a21130caf330f4f5a1a0871b3ba67ca8b60b8904c4ca74cfab3c5988725b6c56",
    "pyramidnet_basic_110_270": "a7bc0ceb9aaa3e3a388e876d941bccdb3637a33d1b17687b2822bdac76d80b8e",
    "pyramidnet_basic_110_84": "e188b9201d21885ad71344b76fe99fc4eedb87c608d62ca1999f7f1f09bbdb82",
    "random_features_256k_aug": "c6db9dfa9a54874b9652dd3e80628aaf0a4f51f28a8595e703333653b3a59f7c",
    "random_features_256k_no_aug": "ae234adaa5fec4a9be3b17b81f4bb6d6ce8468fa1f7259ebce05f9453aa296c0",
    "random_features_32k_aug": "4306ca5563a7d805298b56bb1a50e1265247a1144abd643119a3e59b1f4d3009",
    "random_features_32k_no_aug": "9fbeebf8a5821a46a6bafa8c96e33a97346ea6ddf835a6deb9686f9ab44e5c68",
    "resnet_basic_110": "784c647488d151fa56fa248cf1292373756c2cd0a18cd949366a477a44f7eb70",
    "resnet_basic_32": "e14b921e88fbdee79deb797314bbe70d094594f56c0d6174af209c6d5963ae44",
    "resnet_basic_44": "489f00f0a424f25d0ceb4e51665ac9c785d1875e6d8b138af9651a0dcdcebbed",
    "resnet_basic_56": "db6bce01824ce3238c1c17eb2a5bb56aaec5e545fb7c8df54a3f4e828d9fb0c1",
    "resnet_preact_basic_110": "4bfa980ebad632079b651afc1fc3da8e175e1285f00761172bdb64fc2393aac8",
    "resnet_preact_bottleneck_164": "e6224ea8a3e1e62b42d4fcde734ea1a7bc9154993eea085e66d8d6534b0362cc",
    "resnetv2_tf": "d19d05a7cfb4dce7c897023dc6bb2fafe92ee0e8b726e7e3ad01ef719d8f0c59",
    "resnext_29_4x64d": "00e97fbd7243cf4fa448061c1ceb764dbafd0c8372e8a78bf99d98de90cf4b06",
    "resnext_29_8x64d": "92dc72a0d29aad475134c5c2945ae84226936966d66ddb3a56daa3d25e7d8844",
    "shake_drop": "e81b312535dd92b6076e8d905182103dbab0a78b79c7cbbaa0e6984e09892792",
    "shake_shake_26_2x32d_SSI": "050f8d2132ff32fd4d096329d2bac8d250ed8fb27e52763d9d198eac41c3d827",
    "shake_shake_26_2x64d_SSI_cutout16": "3718b7f57eed8724d06db390d1b0d6994b69f0d90318e0b5337d629aa0c2b822",
    "shake_shake_26_2x64d_SSI": "a773bb42b22093463ed6f9ba174cf09a9597ec28f5da3c55e62551964f313f7e",
    "shake_shake_26_2x96d_SSI": "4ff82506a22cd9e2e0423d06cb4d6ad960492fddb9351ddcdc4cb6b00ec5d16d",
    "vgg16_keras": "c87168134ecea8e382e412a535c6014ef1157d660d1cfe6a6688742d50e7bbf3",
    "vgg_15_BN_64": "02f684971c8aef83c3a1b097acc7990d946549f79f4491f677fd2dab70e6002d",
    "wide_resnet_tf": "2394c013c1eef59ecb27383de09aee4e71c72bfd303fbe7b19f1138077d966e9",
    "wrn_28_10_cutout16": "0884875039bab87745570ac9fd98464a917cdde62f0df6a18484e6c8ae1c11c9",
    "wrn_28_10": "c7260326039cfa44365fa763108acad43e0817d4a0b787e18254ee8e4c241683",
}

REFERENCES: dict[str, Reference] = {
    "cifar10h-probs.npy": Reference(
        path=f"{CIFAR10H}/data/cifar10h-probs.npy",
        sha256="436ae98620e00073f9d08585ac870573b588853e7af9f54eb1647408114af77d",
        licence="CC BY-NC-SA 4.0",
        what="CIFAR-10H (Peterson et al. 2019): float64 [10000, 10], how about 50 people an image labelled it",
    ),
    "cifar10h-counts.npy": Reference(
        path=f"{CIFAR10H}/data/cifar10h-counts.npy",
        sha256="9b36b4550349af56c79083356312eb4af856cc5fd3caf1f669d40b9d0bbb69ff",
        licence="CC BY-NC-SA 4.0",
        what="CIFAR-10H (Peterson et al. 2019): int64 [10000, 10], the number of people that chose each class",
    ),
    "cifar10_mturk.json": Reference(
        path=f"{CLEANLAB}/mturk/cifar10_mturk.json",
        sha256="81b2c16c9eee060d6cc2390f6bbce1e0e7be0a050574be5177c9428f3596b5b5",
        licence="Apache-2.0",
        what="275 suspect test labels, five people's votes on each (Northcutt et al. 2021)",
    ),
    "cifar10_test_labels.npy": Reference(
        path=f"{CLEANLAB}/original_test_labels/cifar10_test_set_original_labels.npy",
        sha256="8fba587d5b11011df52b2a20eb4a272eeaf20c2d162554059f714d4b78d23aed",
        licence="Apache-2.0",
        what="int64 [10000], the labels in the original order",
    ),
    "cifar10_test_set_pyx.npy": Reference(
        path=f"{CLEANLAB}/cross_validated_predicted_probabilities/cifar10_test_set_pyx.npy",
        sha256="c445b25cee680e3919b4bd81d230a5c7c2179ed556609d84e000ee046bb44b49",
        licence="Apache-2.0",
        what="[10000, 10], another model's probabilities (Northcutt et al. 2021)",
    ),
    "duplicates_cifar10.csv": Reference(
        path=f"{CIFAIR}/meta/duplicates_cifar10.csv",
        sha256="4cb7e99a7dfff346082c9d8fa4c2989a196e4a37d1e58f75936046696f1ba6a4",
        licence="none stated: never redistribute",
        what="286 test images with a near-duplicate among the training images (ciFAIR, Barz and Denzler 2020)",
    ),
    "duplicates_cifar10_test.csv": Reference(
        path=f"{CIFAIR}/meta/duplicates_cifar10_test.csv",
        sha256="ef7b33e2f32d056cdb342046b437ee819541a07cb3bb0520a3ada9b9c035f532",
        licence="none stated: never redistribute",
        what="39 pairs of near-duplicates inside the test set (ciFAIR, Barz and Denzler 2020)",
    ),
} | {
    f"{model}_predictions.json": Reference(
        path=f"{PUBLISHED}/{model}_predictions.json",
        sha256=sha256,
        licence="MIT",
        what=f"the classes that {model} predicts, a list of 10,000 (Recht et al. 2018)",
    )
    for model, sha256 in PUBLISHED_MODELS.items()
}


def reference_file(
    name: str, *, say: Say = lambda _: None, progress: Progress = lambda _label, _done, _total: None
) -> Path:
    """Return a verified reference file: from the cache, else fetched from its source and kept.

    Args:
        name: in REFERENCES.
        say: gets a sentence with the source and the licence when it is fetched.
        progress: gets a label, bytes done and bytes in all.

    Raises:
        InputError: no such reference.
        WorldError: it cannot be had or kept; says where the file may be placed by hand.
    """
    if name not in REFERENCES:
        raise InputError(f"There is no reference {name!r}: choose from {', '.join(REFERENCES)}.")
    reference, folder = REFERENCES[name], make_cache_folder() / "references"
    remedy = f"try again later, or place the file in {folder}"
    pooch.get_logger().setLevel("ERROR")

    def downloader(url: str, output: Any, _pooch: object) -> None:
        say(f"Fetching {name} from {url} (licence: {reference.licence}).")
        fetch_file(url, Path(output), name=name, say=say, progress=progress)

    try:
        folder.mkdir(exist_ok=True)
        checksum = f"sha256:{reference.sha256}"
        return Path(pooch.retrieve(reference.url, checksum, fname=name, path=folder, downloader=downloader))
    except ValueError:
        raise WorldError(f"{reference.url} brings other bytes than {name} has (SHA-256): {remedy}.") from None
    except requests.RequestException as error:
        raise WorldError(f"{reference.url} does not deliver ({reason_of(error)}): {remedy}.") from None
    except OSError as error:
        raise WorldError(
            f"{error.filename or folder}: {error.strerror or error}: free some space or set CIFAR_HOME to another disk."
        ) from None


def fetch_file(url: str, output: Path, *, name: str, say: Say, progress: Progress) -> None:
    """Write a URL's bytes to a file, continuing where the connection broke off.

    Args:
        url: what to fetch.
        output: replaced.
        name: labels the progress.
        say: gets a sentence on every wait.
        progress: gets the name, bytes done and bytes in all.

    Raises:
        requests.RequestException: the last attempt failed.
    """
    pace = Pace(patient=True, say=say)
    output.unlink(missing_ok=True)  # pooch made it, empty
    for attempt in range(1, ATTEMPTS + 1):
        try:
            fetch_rest(url, output, pace=pace, progress=lambda _label, done, total: progress(name, done, total))
            return
        except requests.RequestException:
            if attempt == ATTEMPTS:
                raise
