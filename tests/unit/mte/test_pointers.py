"""Pointer algebra: worked examples, inverse operations, and an independent reading of the rules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tagalong.errors import UsageError
from tagalong.mte import pointers
from tagalong.mte.pointers import ConditionFlags
from tagalong.mte.registers import Rgsr

modest = settings(max_examples=100, deadline=None)

any_pointer = st.integers(0, 2**64 - 1)
any_tag = st.integers(0, 15)
any_mask = st.integers(0, 0xFFFF)
any_offset = st.integers(0, 63).map(lambda granules: 16 * granules)


def sign_extended(pointer: int) -> int:
    """Return the address as a signed number, computed in another way than the code does."""
    low = pointer % 2**56
    return low - 2**56 if low >= 2**55 else low


class TestLogicalTag:
    @modest
    @given(any_pointer, any_tag)
    def test_logical_tag_of_with_logical_tag_gives_the_tag(self, pointer: int, tag: int) -> None:
        tagged = pointers.with_logical_tag(pointer, tag)

        assert pointers.logical_tag(tagged) == tag
        assert pointers.with_logical_tag(tagged, pointers.logical_tag(pointer)) == pointer

    @modest
    @given(any_pointer, any_tag)
    def test_with_logical_tag_changes_only_bits_59_to_56(self, pointer: int, tag: int) -> None:
        changed = pointers.with_logical_tag(pointer, tag) ^ pointer

        assert changed & ~(0xF << 56) == 0

    @pytest.mark.parametrize("pointer", [-1, 2**64])
    def test_logical_tag_of_no_64_bit_pointer_is_refused(self, pointer: int) -> None:
        with pytest.raises(UsageError, match=r"^pointer -?0x1(0{16})? is not in 0x0 to 0xf{16}$"):
            pointers.logical_tag(pointer)

    def test_with_logical_tag_sixteen_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^tag 0x10 is not in 0x0 to 0xf$"):
            pointers.with_logical_tag(0, 16)


class TestAddress:
    @modest
    @given(any_pointer)
    def test_address_of_any_pointer_is_the_sign_extension_of_bit_55(self, pointer: int) -> None:
        assert pointers.address_of(pointer) == sign_extended(pointer) % 2**64

    @modest
    @given(any_pointer, st.integers(0, 255))
    def test_same_address_with_another_top_byte_is_true(self, pointer: int, top: int) -> None:
        other = pointer % 2**56 | top << 56

        assert pointers.same_address(pointer, other)

    @modest
    @given(any_pointer, st.integers(0, 55))
    def test_same_address_with_another_lower_bit_is_false(self, pointer: int, bit: int) -> None:
        assert not pointers.same_address(pointer, pointer ^ 1 << bit)


class TestChooseNonexcludedTag:
    @modest
    @given(any_tag, any_tag, any_mask)
    def test_choose_any_arguments_is_the_offset_in_the_ring_of_allowed_tags(
        self, tag: int, offset: int, exclude: int
    ) -> None:
        ring = [t % 16 for t in range(tag, tag + 16) if not exclude & 1 << t % 16]
        if not ring:
            expected = 0
        elif ring[0] == tag or offset == 0:
            expected = ring[offset % len(ring)]
        else:
            expected = ring[(offset - 1) % len(ring)]

        assert pointers.choose_nonexcluded_tag(tag, offset, exclude) == expected

    def test_choose_with_all_excluded_is_zero(self) -> None:
        assert pointers.choose_nonexcluded_tag(7, 3, 0xFFFF) == 0

    def test_choose_offset_zero_of_an_excluded_tag_is_the_next_allowed(self) -> None:
        assert pointers.choose_nonexcluded_tag(14, 0, 0b1100_0000_0000_0001) == 1

    def test_choose_with_a_mask_of_17_bits_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^exclude mask 0x10000 is not in 0x0 to 0xffff$"):
            pointers.choose_nonexcluded_tag(0, 0, 0x10000)


class TestAddgAndSubg:
    @modest
    @given(any_pointer, any_offset, any_tag)
    def test_subg_of_addg_without_excluded_tags_goes_back(
        self, pointer: int, offset: int, tag_offset: int
    ) -> None:
        back = pointers.subg(
            pointers.addg(pointer, offset, tag_offset, 0), offset, -tag_offset % 16, 0
        )

        # A carry out of the address runs through the tag into bits 63:60 and is not
        # borrowed back, because the chosen tag has replaced the one it ran through.
        assert back % 2**56 == pointer % 2**56
        assert pointers.logical_tag(back) == pointers.logical_tag(pointer)

    @modest
    @given(any_pointer, any_offset, any_tag, any_mask)
    def test_addg_and_subg_give_the_sum_with_the_chosen_tag(
        self, pointer: int, offset: int, tag_offset: int, exclude: int
    ) -> None:
        tag = pointers.choose_nonexcluded_tag(pointer >> 56 & 0xF, tag_offset, exclude)

        added = pointers.addg(pointer, offset, tag_offset, exclude)
        subtracted = pointers.subg(pointer, offset, tag_offset, exclude)

        others = ~(0xF << 56)
        assert (added & others, added >> 56 & 0xF) == ((pointer + offset) % 2**64 & others, tag)
        assert (subtracted & others, subtracted >> 56 & 0xF) == (
            (pointer - offset) % 2**64 & others,
            tag,
        )

    def test_addg_offset_that_no_instruction_holds_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^offset 0x400 is not in 0x0 to 0x3f0$"):
            pointers.addg(0, 1024, 0, 0)

    def test_subg_offset_inside_a_granule_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^offset 0x18 is not a multiple of 0x10$"):
            pointers.subg(0, 24, 0, 0)


class TestGmi:
    @modest
    @given(any_pointer, st.integers(0, 2**64 - 1))
    def test_gmi_sets_the_bit_of_the_tag_and_no_other(self, pointer: int, mask: int) -> None:
        result = pointers.gmi(pointer, mask)

        assert result | 1 << (pointer >> 56 & 0xF) == result
        assert result & ~mask & ~(1 << (pointer >> 56 & 0xF)) == 0
        assert result & mask == mask


class TestSubp:
    @modest
    @given(any_pointer, any_pointer)
    def test_subp_plus_the_subtrahend_is_the_minuends_address(self, left: int, right: int) -> None:
        difference = pointers.subp(left, right)

        assert (difference + pointers.address_of(right)) % 2**64 == pointers.address_of(left)

    @modest
    @given(any_pointer, any_pointer)
    def test_subps_flags_say_what_a_comparison_of_addresses_says(
        self, left: int, right: int
    ) -> None:
        signed_left, signed_right = sign_extended(left), sign_extended(right)

        difference, flags = pointers.subps(left, right)

        assert difference == (signed_left - signed_right) % 2**64
        assert flags.zero == (signed_left == signed_right)
        assert flags.carry == (signed_left % 2**64 >= signed_right % 2**64)
        assert flags.overflow == (not -(2**63) <= signed_left - signed_right < 2**63)
        assert flags.negative == (signed_left < signed_right)

    def test_subps_of_lower_and_upper_half_has_no_carry(self) -> None:
        difference, flags = pointers.subps(0x0A00_0000_0000_0000, 0x00FF_FFFF_FFFF_FFF0)

        assert (difference, flags.to_bits()) == (16, 0b0000)


class TestConditionFlags:
    @pytest.mark.parametrize("nzcv", range(16))
    def test_to_bits_of_from_bits_gives_the_bits(self, nzcv: int) -> None:
        assert ConditionFlags.from_bits(nzcv).to_bits() == nzcv

    def test_from_bits_of_five_bits_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"^NZCV 0x10 is not in 0x0 to 0xf$"):
            ConditionFlags.from_bits(16)


class TestIrg:
    @modest
    @given(any_tag, st.integers(0, 0xFFFF))
    def test_random_tag_draws_the_four_bits_that_enter_the_seed(self, tag: int, seed: int) -> None:
        bits = [seed >> n & 1 for n in range(16)]  # bits[0] leaves first
        for _ in range(4):
            bits = [*bits[1:], bits[5] ^ bits[3] ^ bits[2] ^ bits[0]]

        drawn, rgsr = pointers.random_tag(Rgsr(tag=tag, seed=seed))

        assert drawn == sum(bit << n for n, bit in enumerate(bits[12:]))
        assert rgsr == Rgsr(tag=tag, seed=sum(bit << n for n, bit in enumerate(bits)))

    def test_random_tag_of_seed_zero_stays_zero(self) -> None:
        assert pointers.random_tag(Rgsr(tag=3, seed=0)) == (0, Rgsr(tag=3, seed=0))

    def test_random_tag_from_any_seed_other_than_zero_has_a_long_period(self) -> None:
        rgsr = first = Rgsr(seed=1)
        period = 0
        while period == 0 or rgsr != first:
            _, rgsr = pointers.random_tag(rgsr)
            period += 1

        assert period == 2**16 - 1

    @modest
    @given(any_pointer, any_mask, any_tag, st.integers(0, 0xFFFF))
    def test_irg_chooses_an_allowed_tag_and_remembers_it(
        self, pointer: int, exclude: int, tag: int, seed: int
    ) -> None:
        result, rgsr = pointers.irg(pointer, exclude, Rgsr(tag=tag, seed=seed, other_bits=1 << 40))

        chosen = pointers.logical_tag(result)
        assert result & ~(0xF << 56) == pointer & ~(0xF << 56)
        assert rgsr.tag == chosen
        assert rgsr.other_bits == 1 << 40
        assert chosen == 0 if exclude == 0xFFFF else not exclude >> chosen & 1

    def test_irg_sequence_from_a_known_seed_is_the_architectures(self) -> None:
        # The numbers come from a transcription of the Arm ARM's pseudocode into C.
        rgsr = Rgsr(tag=0, seed=0xACE1)
        chosen = []
        for _ in range(10):
            result, rgsr = pointers.irg(0x4000_0000, 0x8001, rgsr)
            chosen.append(pointers.logical_tag(result))

        assert chosen == [0x2, 0x4, 0xB, 0x1, 0x8, 0xB, 0x1, 0xD, 0xC, 0x7]
        assert rgsr == Rgsr(tag=0x7, seed=0x9DC4)

    def test_irg_with_all_excluded_is_zero_and_moves_the_seed(self) -> None:
        result, rgsr = pointers.irg(0x0A00_0000_0000_0000, 0xFFFF, Rgsr(tag=5, seed=1))

        assert (result, rgsr) == (0, Rgsr(tag=0, seed=0x1000))
