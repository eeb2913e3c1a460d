"""Reading PyTorch's files: two that PyTorch 2.13 wrote, and files made to do harm."""

import base64
import io
import pickle
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import pytest

from soda_jax.metrics.torch_weights import read_state_dict

# The state dict of Conv2d(2, 3, (1, 2)) without bias as "conv" and BatchNorm2d(3) as "bn", with two entries more:
# "view", arange(10) in float64, [2:8] as 2 x 3, transposed; "half", (0.5, -2) in float16. By `torch.save`, as it is now
# and with `_use_new_zipfile_serialization=False`; compressed.
NEW = (
    "c-qC5O>7%Q6vxLOaU3^wk~TDLC?SLb4y4Z7Ua#G+e3-BlwzRGh(h4D2YkOm_>a6>`V~4Luksy`0A%r-hUJ)lyrCuvl;@$%Yq(~rf;sg>WZp`"
    "eglbuNu)8xP;ld(7Z|NY<FnR&BCEfhv58by2BC^~_RcC}%3&H0*vjpXfHO|=k5?{aN3Sgp32O|y!vmhHrDv}<PDtgTp890N34f<Qt)Mqt&J-"
    "A%5WR=t5CSj8>EO_n>@YC5rU+pKh~X041(+iA7S-E<5>iG)5#WDdF0sGAUGl9<|T8Tf5>F$M#AfZQWNL=RDm+Z`CxhA~8MYAB(Fw4fHyf*6J"
    "pT9|w$-!Q~JYtW#MVHhsKaeau$Dt0ffc!StB!VQK^!AN6J3t<=~I4!gVV_IMfPB6ep4C5tu%8ii#Dwg5EDNde-2_`@7$<I*vB$Gdl;cN+>(M"
    "OoP-LY-Uu9w$L!-gpilYwU$X4=C%M=>)D^E`%gC3r!P^O&yDh8H=C3@<TC!lTSm%FB%M3Wm87oYzk=irrZ&R}5Tjm`)kDjp{A421!QqCgEDk"
    "uJ6pjylapJi5QRvoFWFZvkaWZkST$zll6tVmbngD4ztqgRGQ`vNO3_5<OnE+A%Bz17@5O6aDhx?=nh<D&`TIDm*9#EZ5Yi}Sm2;n$)z3SqKn"
    "MI5<!xMuuPK=Zb5-2|0=_+V0f(rYG(spcUJ?M18mUM4p-g(zmd@CUVt|@KyzoiYqlM-(&3sGaNHp1%7(W#;CjQo6m*{=+}MC3xe#<ZP9<5?2"
    "BVF8_x?FYmMQJUefQi1`RVPs<Z7$EX5g~ts1{BNThDDN3cvs7_9rw|+V_V~qTDXr+gW9!Y1QpD)5dBc^EiILrpPpa#dY|DW*$5+fHAbV6F}t"
    "yY_@2zPz#q1<J)UZ3*)9qW7xX#`<V!Fi5wV194&BFZC+9f7mpACqi!yeKTG77^i9(5lKz17-$+Nxq?VFCO}ey9BYl5kbwQ$)t52lke55J0Fp"
    "Bp2Q*YKO`^)PeZx0joa36M_XQ$PIj1HeaYt+B>!;c>w!awsr`^$&--<^Bv|J_&d?+@XhJ!<~c+xm6Jq-N1R-j{iAMJ?pf(bj*j{k7<QSYkue"
    "8%Moy+#64O<5_Q<_Qo0a8UBJQYLVv9Cl8s=Bc~RmC(eUR!~^R2={Nf4w48?z^c?Y3u${Vmr23VKQTIn**Wc-1Kc`T7w}87TJ7(J=75qbkzI~"
    "Ognp#LcVK7oYt>hIsm&;@oNzUeSIZ2Z8vYb^eNaSNmQRGxQtE6d^5C5LS2@*%bjWQ5)XV{C=f4+_GiClb-6xIF%Y=Tqb5ZdoV6e0dYXp)0G@"
    "<aBVd?Lqxkc@GhQW)($z(l#fy2m;BPhljSJ)+iMy?O2CfS^r@T7Tu^wcDaL{ol3kMFed|)cPx);45lnQR}Z*g72W9&5BxomEg5Mi&{n0`gc3"
    "8y&Dy@IZ^B1t0SCtd<covK@|J9&=e>B!Y6+G<}PZH$Xu@!gwFd4AwN1HHs)i!qai}yT+z43*?0DqI1pi)xO+dl_g_?g2Iv"
)
OLD = (
    "c-noG$#T;`5Qb&R*_0IsA%OrUY%+^+yv1UR10e*IRa|tTRI)r+0!2zoBd4IsRk<VuJOc-gJVqXcD>trGaiFy%#EwAaR!gm!@9&!V$Ghxj-un"
    "Gz=~w3Mw~eXXF1z}J!+RSTK^bEhX4`eBqdS(`BCcmTHl%QXGK^m=lTwSQ#BP|H4eUpS$0B{dO;pePKs?~ukQS64EP96HQs|Lbg~K<~rqC;;m"
    "2|*x>?ZU{Y2Qap9c3({Q&jQzb+<uW(pWTg$^(;?Atfk-I74^rR&IxwO@jifQ^(bfoa$54@_5xHb>FlaDkZk(xN57w11AVdU(f=M)S3j+(G-5"
    "kay0rXD)P{yjNlltlov~4xlpK-#MuJ$hTZDhJ~lYCMxlRGVg!kkSScm36b1w-jnDW-f&XL#Ee=u`l3`dGz<G81u*(qxn=sNww@5i(t-`3$Cv"
    "gZLL%784!6_-V2d5+484BYvoDKU&T;0?>m^c9|=Zj*#SP|zca4v>T#;~aXc0Ph#pfD}NMP)RCxxQ_ic2nIVxObQS0Tt&EdO3z>V(66sIuk*!"
    "Qn)6=^>ErTXiIb9Ml!Qhm=z0fGiC}gGaE2(Ma<h2?#OUgnTVLSzophSsvE>psjKPlNCR>aJKo9_^w7~x-s_et7AufPxfIIHqFgo`$rLCQWhj"
    "L%Y?)*S${o-}$FE!D2wUmGmc&XP<`Byxwz`QfKws>Gh}Pit;eI6XfWku=9)%KyX1#&O9TLk}Iue-g6ew5ovlXbJ0E+?(!7{OX@FZBKrxARS!"
    "ZR6`{5Cuf{f0Y9wT4DDSPs9x5EQI3@Ujh3=%B;%yCS8$u%+N6!D<`UjIhLp>kaE|*uVno`Cc8*<m=#nAmMPNlFZB|nUYH~RXWKPJxP1lo3!$"
    "MNvqXQazo7VYj+-RHT+@hVtmCo!1#{AEHKO%Mg}9lz;(=tf@4lz|F8YkOLdLmnWXFIeEd+0Qh%Js;yfPb$v98PITPoZ8hePUG6#PEqn=Nu"
)


def written(tmp_path, text):
    path = tmp_path / "weights.pth"
    path.write_bytes(zlib.decompress(base64.b85decode(text)))
    return path


def zipped(tmp_path, data_pkl):
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", data_pkl)
        archive.writestr("weights/data/0", b"\0" * 16)
    return path


@pytest.mark.parametrize("text", [NEW, OLD], ids=["new format", "old format"])
def test_what_pytorch_wrote(tmp_path, text):
    state = read_state_dict(written(tmp_path, text))
    expected = {
        "conv.weight": np.arange(12, dtype=np.float32).reshape(3, 2, 1, 2),
        "bn.weight": np.ones(3, np.float32),
        "bn.bias": np.zeros(3, np.float32),
        "bn.running_mean": np.zeros(3, np.float32),
        "bn.running_var": np.array([1, 2, 3], np.float32),
        "bn.num_batches_tracked": np.array(0, np.int64),
        "view": np.arange(2, 8, dtype=np.float64).reshape(2, 3).T,
        "half": np.array([0.5, -2], np.float16),
    }
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert state[name].dtype == value.dtype
        np.testing.assert_array_equal(state[name], value)
        assert state[name].flags.owndata or state[name].base.flags.owndata  # not a window into the file


class Harm:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("wrap", [zipped, lambda tmp_path, data: data], ids=["zip", "pickle"])
def test_no_code_is_run(tmp_path, wrap):
    touched = tmp_path / "touched"
    data = pickle.dumps({"conv.weight": Harm(touched)}, protocol=2)
    path = tmp_path / "weights.pth"
    if wrap is zipped:
        zipped(tmp_path, data)
    else:
        path.write_bytes(data)
    with pytest.raises(ValueError, match="which is not admitted"):
        read_state_dict(path)
    assert not touched.exists()


def edited(tmp_path, edit):
    """The new format's file with every record as `edit(name, data)` returns it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(written(tmp_path, NEW)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, edit(name, old.read(name)))
    path = tmp_path / "edited.pth"
    path.write_bytes(buffer.getvalue())
    return path


def test_a_tensor_beyond_its_storage(tmp_path):
    """Strides are the file's word: unchecked, they would read other memory."""
    view = b"K\x02K\x03K\x02\x86"  # offset 2, shape (3, 2)
    path = edited(tmp_path, lambda name, data: data.replace(view, b"K\x09" + view[2:]))
    with pytest.raises(ValueError, match="has 10 numbers, a tensor reads up to 14"):
        read_state_dict(path)
    assert len(read_state_dict(edited(tmp_path, lambda name, data: data))) == 8


def test_a_storage_cut_short(tmp_path):
    path = edited(tmp_path, lambda name, data: data[:8] if name.endswith("data/0") else data)
    with pytest.raises(ValueError, match="has 2 numbers"):
        read_state_dict(path)


@pytest.mark.parametrize("text", [NEW, OLD], ids=["new format", "old format"])
def test_a_file_cut_short(tmp_path, text):
    path = written(tmp_path, text)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no state dict of tensors saved by PyTorch, or is damaged"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "holds a list"),
        ({"epoch": 3}, "holds no tensor by name: save the network's state_dict"),
        (OrderedDict(), "holds no tensor by name"),
    ],
)
def test_other_contents(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        read_state_dict(zipped(tmp_path, pickle.dumps(value, protocol=2)))


def test_other_files(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="weights.pth is no state dict"):
        read_state_dict(path)
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "absent.pth")


def tensor_pickle(shape, strides, offset=0, count=4):
    """A dict of one float32 tensor as PyTorch pickles it, by hand: PyTorch's names need not be importable."""

    def text(value):
        return b"X" + len(value).to_bytes(4, "little") + value

    def number(value):
        return b"\x8a" + bytes([16]) + value.to_bytes(16, "little", signed=True)

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + number(count) + b"tQ"
    arguments = b"(" + storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89}t"
    return b"\x80\x02}" + text(b"weight") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_a_tensor_by_hand(tmp_path):
    state = read_state_dict(zipped(tmp_path, tensor_pickle((2, 2), (2, 1))))
    np.testing.assert_array_equal(state["weight"], np.zeros((2, 2), np.float32))


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (((10**10,), (0,)), "a tensor makes 10000000000 of them"),
        (((10**5, 10**5), (0, 0)), "a tensor makes 10000000000 of them"),
        (((5,), (0,)), "4 numbers, a tensor makes 5"),
        (((2**64,), (0,)), "a tensor makes"),
        (((-1,), (1,)), "impossible"),
        (((2,), (-1,), 3), "impossible"),
        (((2,), (1,), -2), "impossible"),
        (((2,), (1, 1)), "impossible"),
        (((1,) * 70, (1,) * 70), "impossible"),
        (((4,), (1,), 0, -1), "impossible"),
        (((10**10,), (0,), 0, 10**10), "would take 40,000,000,000 bytes"),
        (((5,), (1,), 0, 5), "has 4 numbers, a tensor reads 5"),
        (((2,), (10**30,)), "damaged"),
    ],
)
def test_tensors_larger_than_their_storage(tmp_path, tensor, message):
    """A stride of 0 makes any number of numbers of one."""
    with pytest.raises(ValueError, match=message):
        read_state_dict(zipped(tmp_path, tensor_pickle(*tensor)))


def test_compressed_storages(tmp_path):
    """A thousandth of what they expand to; PyTorch writes none."""
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", tensor_pickle((4,), (1,)))
        archive.writestr("weights/data/0", bytes(16))
    with pytest.raises(ValueError, match="compressed"):
        read_state_dict(path)


@pytest.mark.parametrize("wrap", [zipped, lambda tmp_path, data: data], ids=["zip", "pickle"])
def test_a_pickle_that_asks_for_a_list_of_32_gib(tmp_path, wrap):
    data = b"\x80\x02}r" + (2**32 - 1).to_bytes(4, "little") + b"."
    path = tmp_path / "weights.pth"
    zipped(tmp_path, data) if wrap is zipped else path.write_bytes(data)
    with pytest.raises(ValueError, match="more instructions than weights need"):
        read_state_dict(path)


def test_records_get_no_other_state(tmp_path):
    data = tensor_pickle((4,), (1,)).removesuffix(b"s.") + b"}bs."
    with pytest.raises(ValueError, match="a tensor with a state"):
        read_state_dict(zipped(tmp_path, data))
